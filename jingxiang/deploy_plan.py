"""Deployments as values: what was asked for, what is there, what is done, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jingxiang.errors import JingxiangError, UnknownName, UsageError
from jingxiang.findings import PROBLEM, Finding
from jingxiang.language import tr

AUTO = "auto"
BLUE_GREEN, RECREATE = "bluegreen", "recreate"
REGISTRY, SSH = "registry", "ssh"
STRATEGIES, TRANSFERS = (AUTO, BLUE_GREEN, RECREATE), (AUTO, REGISTRY, SSH)
# What `deploy` and its kin exit with besides 0 and 1.
BAD_CHECK, NOT_SENT, RESTORED, DOWN, LOCKED = 2, 3, 4, 5, 6


@dataclass(frozen=True)
class Order:
    """What was asked for. `registry`: HOST/NAME where the image goes on its way; `port`: of the page on the host;
    `public`: others can reach it, as `domain` or by the host's own name; `timeout_s`: for a new version to get ready;
    `breaks_lock`: whoever deploys now does not any more; `agrees`: no question about money is asked."""

    strategy: str = AUTO
    transfer: str = AUTO
    registry: str = ""
    port: int = 7860
    public: bool = False
    domain: str = ""
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
        if self.public and self.passwords is None:
            raise UsageError(
                tr("--public needs a password: an open page is a free GPU for anyone"),
                hints=(tr("--password-file FILE, with lines NAME:PASSWORD"),),
            )
        if self.domain and not self.public:
            raise UsageError(tr("--domain needs --public"))


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


def has_problem(findings: Sequence[Finding]) -> bool:
    return any(each.state == PROBLEM for each in findings)
