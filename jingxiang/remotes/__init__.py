"""Where images run: one module per kind of target."""

from __future__ import annotations

import importlib

from jingxiang.remotes.base import Remote
from jingxiang.targets import AliyunTarget, KubernetesTarget, SkyTarget, SshEnvTarget, SshTarget, Target

# By name: the SDK of a cloud is imported when somebody deploys there.
PROVIDERS: dict[type[Target], str] = {
    SshTarget: "ssh_docker:SshDocker",
    SshEnvTarget: "ssh_env:SshEnv",
    KubernetesTarget: "kubernetes:Kubernetes",
    SkyTarget: "sky:Sky",
    AliyunTarget: "aliyun:Aliyun",
}


def of(target: Target, address: str) -> Remote:
    """The provider of a target. `address`: as it was given, for messages."""
    module, _, name = PROVIDERS[type(target)].partition(":")
    provider: Remote = getattr(importlib.import_module(f"{__name__}.{module}"), name)(target, address)
    return provider
