"""What every kind of target can do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from jingxiang.deploy_plan import Deployed, Order, Status
from jingxiang.findings import Finding
from jingxiang.gpu import Gpus
from jingxiang.images import Image
from jingxiang.sinks.base import Sink

# The Python of a tool environment by its name (envs/NAME.in), made if it is not there: SDKs live in their own.
Tools: TypeAlias = Callable[[str], Path]


@dataclass(frozen=True)
class Choice:
    """What an image is to be made of: model, and profile of PyTorch; `needed_bytes`: GPU memory that the model takes
    (0: it needs no GPU); `weights_bytes`: what of it is on a disk, as far as that is known."""

    model: str
    profile: str
    needed_bytes: int
    weights_bytes: int


@dataclass(frozen=True)
class Pack:
    """What a host without docker is set up from: a folder that is a mirror; the code by its path; what `setup` needs
    besides; and the engine that is to make the environment."""

    bundle: Path
    code: Mapping[str, Path]
    tools: Mapping[str, Path]
    engine: str


class Images(Protocol):
    """Where images come from. It lies above the remotes, which only know that they get one."""

    def choose(self, cards: Gpus) -> Choice:
        """What fits a machine with these cards; nothing is made. Raises `NoneFits` and its like."""

    def make(self, choice: Choice) -> Image:
        """Fetch and make what is missing for it."""

    def pack(self, choice: Choice) -> Pack:
        """The same without an image."""

    def put(self, image: Image, sink: Sink) -> int:
        """Send what a sink lacks of it, and show how that goes; gives the bytes."""

    def push(self, image: Image, repository: str) -> str:
        """Have it in a registry, as HOST/NAME says; gives HOST/NAME@DIGEST."""


class Remote(Protocol):
    """One target. All but `check`, `plan`, `status` and `logs` change it."""

    def check(self, order: Order, images: Images) -> tuple[Finding, ...]:
        """Everything that could be in the way, all at once; nothing is changed."""

    def plan(self, order: Order, images: Images) -> str:
        """What `deploy` would do, for stdout: manifests, a task, JSON. Nothing is changed."""

    def deploy(self, order: Order, images: Images) -> Deployed:
        """Check, send, start, switch. Raises `DeployError` in its kinds."""

    def status(self) -> Status:
        """What it serves now."""

    def logs(self, *, follows: bool, failed: bool) -> Iterator[str]:
        """Lines of the version that serves, or of the last one that did not get ready (`failed`)."""

    def rollback(self, order: Order, version: str) -> Deployed:
        """Serve a version that is kept again; by default the one before. Raises `DeployError`."""

    def destroy(self, order: Order, *, volumes: bool) -> None:
        """Remove what was deployed. Pictures, videos and models stay unless `volumes`."""
