"""Targets: where an image is deployed to, each named by an address with nothing to configure before."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import parse_qsl, unquote

from jingxiang.errors import UnknownName, UsageError
from jingxiang.language import tr
from jingxiang.redaction import redact

SHAPES = {
    "ssh": "ssh://[USER@]HOST[:PORT]",
    "ssh+env": "ssh+env://[USER@]HOST[:PORT]",
    "k8s": "k8s://CONTEXT/NAMESPACE[?gpus=N]",
    "sky": "sky://INFRA[?gpu=A100:1&replicas=2]",
    "aliyun": "aliyun://REGION/INSTANCE-TYPE[?spot=1]",
}
# The first character is no dash: ssh and others would take the word for an option of theirs.
WORD = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.-]*")
HOST = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.]+(%[A-Za-z0-9_.-]+)?\]")
CONTEXT = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.:/@+-]*")
# Names in Kubernetes: labels and subdomains as RFC 1123 has them
LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
SUBDOMAIN = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
IMAGE = re.compile(r"[a-z0-9][A-Za-z0-9._:/@-]*")
INFRA = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.:@*-]*(/[A-Za-z0-9_.:@*-]+)*")
REGION = re.compile(r"[a-z]{2}-[a-z0-9]+(-[a-z0-9]+)*")
INSTANCE_TYPE = re.compile(r"ecs(\.[a-z0-9-]+){2,3}")
GPU = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]*)(?::([1-9][0-9]?))?")
BUCKET = re.compile(r"(s3|oss)://[a-z0-9][a-z0-9._/-]*")
# What a bucket is opened with, in the environment.
BUCKET_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION")
MOST = 100  # of GPUs and replicas: a typing error must not rent a data centre


@dataclass(frozen=True)
class SshTarget:
    """A host with docker. A part that was left out is None: then the user's ssh config decides."""

    host: str
    user: str | None = None
    port: int | None = None


@dataclass(frozen=True)
class SshEnvTarget:
    """A host, or a rented container, without docker."""

    host: str
    user: str | None = None
    port: int | None = None


@dataclass(frozen=True)
class KubernetesTarget:
    """A namespace of a cluster, by the context of the user's kubeconfig.

    `gpus`: pods with one GPU each; `media`: a bucket for pictures and videos, instead of a volume; `storage`: the class
    of volumes (empty: the cluster's default); `pull`: the Secret there with which images are pulled; `database`: the
    image of PostgreSQL, where several pods need one and none is given.
    """

    context: str
    namespace: str
    gpus: int = 1
    media: str = ""
    storage: str = ""
    pull: str = ""
    database: str = ""


@dataclass(frozen=True)
class SkyTarget:
    """What SkyPilot calls infra: a cloud, perhaps with region and zone, a Kubernetes context or an ssh pool.

    `gpu`: name and count as SkyPilot has them; `most`: replicas that it may scale up to (0: it does not scale), one for
    each `qps` requests a second; `media`: a bucket for pictures and videos.
    """

    infra: str
    gpu: str = "A100:1"
    replicas: int = 1
    most: int = 0
    qps: int = 0
    media: str = ""


@dataclass(frozen=True)
class AliyunTarget:
    """One instance to be created. `hours`: after so long Aliyun releases it; `image`, `group` (security group) and
    `switch` (vSwitch): ids, found there if empty; `key`: the name of a key pair there (empty: the user's own public
    key is brought along)."""

    region: str
    instance_type: str
    spot: bool = False
    hours: int = 24
    disk_gb: int = 200
    key: str = ""
    image: str = ""
    group: str = ""
    switch: str = ""


Target: TypeAlias = SshTarget | SshEnvTarget | KubernetesTarget | SkyTarget | AliyunTarget


def parse(address: str) -> Target:
    """What an address names. Raises `UsageError`, `UnknownName`."""
    scheme, found, rest = address.partition("://")
    if not found:
        raise _wrong(address, tr("should be one of {shapes}", shapes=", ".join(SHAPES.values())))
    if scheme not in SHAPES:
        raise UnknownName("kind of target", scheme, SHAPES, where=redact(address))
    if any(character.isspace() or not character.isprintable() for character in unquote(address)):
        raise _wrong(address, tr("holds a space or a character that cannot be seen"))
    place, _, query = rest.partition("?")
    return READERS[scheme](address, place, _options(address, query))


def _ssh(address: str, place: str, options: Mapping[str, str]) -> SshTarget:
    return SshTarget(*_login(address, "ssh", place, options))


def _ssh_env(address: str, place: str, options: Mapping[str, str]) -> SshEnvTarget:
    return SshEnvTarget(*_login(address, "ssh+env", place, options))


def _login(address: str, scheme: str, place: str, options: Mapping[str, str]) -> tuple[str, str | None, int | None]:
    """Host, user and port. An IPv6 address loses its brackets, as ssh wants it."""
    _only(address, options, ())
    login, at, end = place.rpartition("@")
    if ":" in login:
        raise _wrong(address, tr("holds a password, but ssh is used with keys alone: ssh-copy-id USER@HOST"))
    host, colon, port = end.rpartition(":") if not end.endswith("]") else (end, "", "")
    if not colon:
        host = end
    _word(address, tr("the user name"), login, WORD, SHAPES[scheme], is_optional=not at)
    _word(address, tr("the host"), host, HOST, SHAPES[scheme])
    return host.strip("[]"), login or None, _count(address, tr("the port"), port, 65535) if colon else None


def _kubernetes(address: str, place: str, options: Mapping[str, str]) -> KubernetesTarget:
    _only(address, options, ("gpus", "media", "storage", "pull", "database"))
    # The names of contexts are free: those of EKS and others hold slashes and colons.
    context, _, namespace = unquote(place).rpartition("/")
    _word(address, tr("the context"), context, CONTEXT, SHAPES["k8s"])
    _word(address, tr("the namespace"), namespace, LABEL, SHAPES["k8s"])
    for name in ("storage", "pull"):
        _word(address, name, options.get(name, ""), SUBDOMAIN, SHAPES["k8s"], is_optional=name not in options)
    _word(address, "database", options.get("database", ""), IMAGE, SHAPES["k8s"], is_optional="database" not in options)
    return KubernetesTarget(
        context, namespace, _count(address, "gpus", options.get("gpus", "1"), MOST), _media(address, options),
        options.get("storage", ""), options.get("pull", ""), options.get("database", ""),
    )  # fmt: skip


def _sky(address: str, place: str, options: Mapping[str, str]) -> SkyTarget:
    _only(address, options, ("gpu", "replicas", "most", "qps", "media"))
    infra = unquote(place)
    _word(address, tr("the infra"), infra, INFRA, SHAPES["sky"])
    if not (gpu := GPU.fullmatch(options.get("gpu", SkyTarget.gpu))):
        raise _wrong(address, tr("gpu: '{value}' should be NAME or NAME:COUNT, such as A100:1", value=options["gpu"]))
    replicas = _count(address, "replicas", options.get("replicas", "1"), MOST)
    most = _count(address, "most", options["most"], MOST) if "most" in options else 0
    if most and most < replicas:
        raise _wrong(address, tr("most: {most} is less than replicas: {replicas}", most=most, replicas=replicas))
    if bool(most) != ("qps" in options):
        raise _wrong(address, tr("most and qps, requests a second for each replica, come together"))
    qps = _count(address, "qps", options["qps"], 1000) if most else 0
    return SkyTarget(infra, f"{gpu[1]}:{gpu[2] or 1}", replicas, most, qps, _media(address, options))


def _aliyun(address: str, place: str, options: Mapping[str, str]) -> AliyunTarget:
    _only(address, options, ("key", "spot", "hours", "disk", "image", "group", "switch"))
    region, _, instance_type = place.partition("/")
    _word(address, tr("the region"), region, REGION, SHAPES["aliyun"])
    _word(address, tr("the instance type"), instance_type, INSTANCE_TYPE, SHAPES["aliyun"])
    for name in ("key", "image", "group", "switch"):
        _word(address, name, options.get(name, ""), WORD, SHAPES["aliyun"], is_optional=name not in options)
    if (spot := options.get("spot", "0")) not in ("0", "1"):
        raise _wrong(address, tr("spot: '{value}' should be 0 or 1", value=spot))
    return AliyunTarget(
        region, instance_type, spot == "1",
        _count(address, "hours", options.get("hours", str(AliyunTarget.hours)), 24 * 365),
        _count(address, "disk", options.get("disk", str(AliyunTarget.disk_gb)), 2048, least=40),
        options.get("key", ""), options.get("image", ""), options.get("group", ""), options.get("switch", ""),
    )  # fmt: skip


READERS: dict[str, Callable[[str, str, Mapping[str, str]], Target]] = {
    "ssh": _ssh, "ssh+env": _ssh_env, "k8s": _kubernetes, "sky": _sky, "aliyun": _aliyun,
}  # fmt: skip


def _options(address: str, query: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in found:
            raise _wrong(address, tr("{name} is there twice", name=name))
        found[name] = value
    return found


def _only(address: str, options: Mapping[str, str], allowed: tuple[str, ...]) -> None:
    for name in options:
        if not allowed:
            raise _wrong(address, tr("takes no option after a ?"))
        if name not in allowed:
            raise UnknownName("option", name, allowed, where=redact(address))


def _word(
    address: str, what: str, value: str, allowed: re.Pattern[str], shape: str, *, is_optional: bool = False
) -> None:
    if is_optional and not value:
        return
    if not value:
        raise _wrong(address, tr("{what} is missing; it should be {shape}", what=what, shape=shape))
    if value.startswith("-"):
        raise _wrong(address, tr("{what} begins with a dash: it would be taken for an option", what=what))
    if not allowed.fullmatch(value):
        raise _wrong(address, tr("{what}: '{value}' is no such name", what=what, value=value))


def _count(address: str, what: str, text: str, most: int, *, least: int = 1) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 7 and least <= int(text) <= most):
        text = tr("{what}: '{value}' should be a whole number from {least} to {most}",
                  what=what, value=text, least=least, most=most)  # fmt: skip
        raise _wrong(address, text)
    return int(text)


def _media(address: str, options: Mapping[str, str]) -> str:
    media = options.get("media", "")
    if media and not BUCKET.fullmatch(media):
        raise _wrong(address, tr("media: '{value}' should be s3://BUCKET/FOLDER or oss://BUCKET/FOLDER", value=media))
    return media


def _wrong(address: str, problem: str) -> UsageError:
    return UsageError(f"{redact(address)}: {problem}")
