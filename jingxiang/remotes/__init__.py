"""Where images run: one module per kind of target."""

from __future__ import annotations

import importlib

from jingxiang.remotes.base import Remote, Tools
from jingxiang.targets import AliyunTarget, KubernetesTarget, SkyTarget, SshEnvTarget, SshTarget, Target

# By name: what a target needs is imported when somebody deploys there.
PROVIDERS: dict[type[Target], str] = {
    SshTarget: "ssh_docker:SshDocker",
    SshEnvTarget: "ssh_env:SshEnv",
}
# Those with an SDK, which runs in an environment of its own.
CLOUDS: dict[type[Target], str] = {
    KubernetesTarget: "kubernetes:Kubernetes",
    SkyTarget: "sky:Sky",
    AliyunTarget: "aliyun:Aliyun",
}


def of(target: Target, address: str, tools: Tools) -> Remote:
    """The provider of a target. `address`: as it was given, for messages."""
    is_cloud = type(target) in CLOUDS
    module, _, name = (CLOUDS if is_cloud else PROVIDERS)[type(target)].partition(":")
    made = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    provider: Remote = made(target, address, tools) if is_cloud else made(target, address)
    return provider
