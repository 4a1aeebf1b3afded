"""Deployments as values: what was asked for, what is there, what is done, and how it ended."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jingxiang.errors import JingxiangError, UnknownName, UsageError
from jingxiang.findings import PROBLEM, Finding
from jingxiang.gpu import Gpus
from jingxiang.language import tr

AUTO = "auto"
GIB = 1 << 30
BLUE_GREEN, RECREATE = "bluegreen", "recreate"
REGISTRY, SSH = "registry", "ssh"
STRATEGIES, TRANSFERS = (AUTO, BLUE_GREEN, RECREATE), (AUTO, REGISTRY, SSH)
PORTS = range(1, 1 << 16)
PAGE, TLS = 7860, 443  # where a page is unless a port is asked for; TLS: a public one
# It goes into the configuration of the proxy: letters, digits and hyphens, in parts with dots between them.
DOMAIN = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*")
# What `deploy` and its kin exit with besides 0 and 1.
BAD_CHECK, NOT_SENT, RESTORED, DOWN, LOCKED = 2, 3, 4, 5, 6


@dataclass(frozen=True)
class Front:
    """Where a host answers: its port; `public`: on all addresses over TLS, as `domain` or by the host's own name; else
    on loopback alone."""

    port: int
    public: bool = False
    domain: str = ""

    @property
    def text(self) -> str:
        """For a label."""
        return f"{self.port},{'public' if self.public else 'loopback'},{self.domain}"

    @classmethod
    def of(cls, text: str) -> Front:
        port, reach, domain = text.split(",", 2)
        return cls(int(port), reach == "public", domain)


@dataclass(frozen=True)
class Order:
    """What was asked for. `registry`: HOST/NAME where the image goes on its way; `timeout_s`: for a new version to
    get ready; `breaks_lock`: whoever deploys now does not any more; `agrees`: no question about money is asked."""

    strategy: str = AUTO
    transfer: str = AUTO
    registry: str = ""
    front: Front = Front(7860)
    passwords: Path | None = None
    timeout_s: int = 600
    breaks_lock: bool = False
    agrees: bool = False

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise UnknownName("strategy", self.strategy, STRATEGIES)
        if self.transfer not in TRANSFERS:
            raise UnknownName("transfer", self.transfer, TRANSFERS)
        if self.transfer == REGISTRY and not self.registry:
            raise UsageError(tr("--transfer registry needs one: --registry HOST/NAME"))
        if self.front.public and self.passwords is None:
            raise UsageError(
                tr("--public needs a password: an open page is a free GPU for anyone"),
                hints=(tr("--password-file FILE, with lines NAME:PASSWORD"),),
            )
        if self.front.domain and not self.front.public:
            raise UsageError(tr("--domain needs --public"))
        if self.front.domain and not DOMAIN.fullmatch(self.front.domain):
            raise UsageError(tr("--domain {name}: should be a name such as video.example.com; of another script, its "
                                "form in ASCII (xn--…)", name=self.front.domain))  # fmt: skip
        if self.front.port not in PORTS:
            raise UsageError(tr("--port {port}: should be 1 to 65535", port=self.front.port))
        if self.timeout_s < 1:
            raise UsageError(tr("--timeout {seconds}: should be a number of seconds", seconds=self.timeout_s))


@dataclass(frozen=True)
class Release:
    """One version that was deployed. `image`: its id; `at`: RFC 3339; `by`: USER@MACHINE; `how`: deploy, rollback."""

    version: str
    image: str
    at: str
    by: str
    how: str

    def to_json(self) -> dict[str, str]:
        return asdict(self)


@dataclass(frozen=True)
class Status:
    """What a target serves now. `state`: ready, loading, stopped, absent or what the target calls it; `kept`: versions
    that can be rolled back to, the newest first; `more`: what only some targets know."""

    address: str
    state: str
    version: str = ""
    url: str = ""
    running: int | None = None
    queued: int | None = None
    kept: tuple[str, ...] = ()
    releases: tuple[Release, ...] = ()
    more: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "more": dict(self.more)}


@dataclass(frozen=True)
class Deployed:
    """How it ended: the version that serves now, and where. `hint`: how to get there from here, if that takes a
    command; `sent_bytes` of `size_bytes`: what of the image had to be sent; `figures`: seconds of the steps."""

    version: str
    url: str
    strategy: str
    hint: str = ""
    sent_bytes: int = 0
    size_bytes: int = 0
    figures: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "figures": dict(self.figures)}


class DeployError(JingxiangError):
    """A deployment that did not come about. The message says what failed and where, and what serves still."""

    def __init__(self, exit_code: int, message: str, hints: Sequence[str] = ()) -> None:
        super().__init__(message, hints)
        self.exit_code = exit_code


class NotReady(DeployError):
    """The check of a target has found problems; nothing was changed."""

    def __init__(self, address: str, findings: Sequence[Finding]) -> None:
        problems = ", ".join(tr(each.subject) for each in findings if each.state == PROBLEM)
        text = tr("{address}: to be put right first: {subjects}; nothing was changed", address=address,
                  subjects=problems)  # fmt: skip
        super().__init__(BAD_CHECK, text)


def command(task: str, address: str, *flags: str) -> str:
    """A command of ours, to be typed or pasted: addresses may hold what a shell takes for something else."""
    return shlex.join(["python3", "tasks.py", task, address, *flags])


def has_problem(findings: Sequence[Finding]) -> bool:
    return any(each.state == PROBLEM for each in findings)


def strategy(asked: str, gpus: Gpus, needed_bytes: int) -> tuple[str, str]:
    """Blue/green where each card has room for a second copy of the model; else recreate. With why."""
    if asked != AUTO:
        return asked, tr("as asked for")
    if not needed_bytes:
        return BLUE_GREEN, tr("no GPU memory is needed")
    free, needed = min((card.free_bytes for card in gpus.cards), default=0) / GIB, needed_bytes / GIB
    if free >= needed:
        return BLUE_GREEN, tr("{free:.1f} GiB of GPU memory free, {needed:.1f} needed", free=free, needed=needed)
    return RECREATE, tr("{free:.1f} GiB of GPU memory free, {needed:.1f} needed for a second copy", free=free,
                        needed=needed)  # fmt: skip
