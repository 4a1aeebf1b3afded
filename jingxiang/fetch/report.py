"""What a run of the fetch engine came to: for programs, for people, and as an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jingxiang import console
from jingxiang.errors import JingxiangError
from jingxiang.language import tr
from jingxiang.redaction import redact

SHOWN = 3  # files whose failures are listed in full
MIRROR_COLUMNS = 9


@dataclass(frozen=True)
class MirrorReport:
    """What one mirror brought, and how often it failed, by what it said."""

    mirror: str
    files: int
    size_bytes: int
    failures: Mapping[str, int]

    @property
    def share(self) -> str:
        return f"{self.mirror} {console.size(self.size_bytes)} {_files(self.files)}"


@dataclass(frozen=True)
class Report:
    """`digests`: by artifact (its `key`), the SHA-256 of the blob that it is now. `moved`: files that came from
    another mirror than the one that was asked first."""

    digests: Mapping[str, str]
    fetched_files: int
    fetched_bytes: int
    seconds: float
    moved: int
    mirrors: tuple[MirrorReport, ...]

    def lines(self) -> list[str]:
        """The summary, then a line for each thing that a mirror did wrong; nothing if nothing was fetched."""
        if not self.fetched_files:
            return []
        shares = " · ".join(each.share for each in self.mirrors if each.size_bytes)
        moved = tr("files moved on: {count}, ", count=self.moved) if self.moved else ""
        size = tr("{size} in {seconds:.1f} s", size=console.size(self.fetched_bytes), seconds=self.seconds)
        first = f"{size}   {shares} · {moved}{tr('every hash checked')}"
        return [first, *self.failures()]

    def failures(self) -> list[str]:
        return [
            f"{each.mirror}: {redact(reason)} {_files(count)}"
            for each in self.mirrors
            for reason, count in each.failures.items()
        ]


@dataclass(frozen=True)
class Missed:
    """A file that no source gave: its name, and what each source did, in the order in which they were asked."""

    name: str
    reasons: tuple[tuple[str, str], ...]


class Unavailable(JingxiangError):
    """Some files could not be had from any mirror; says what each of them did wrong."""

    def __init__(self, missed: Sequence[Missed]) -> None:
        self.missed = tuple(missed)
        groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
        for each in missed:
            groups.setdefault(each.reasons, []).append(each.name)
        lines = [line for reasons, names in list(groups.items())[:SHOWN] for line in _said(names, reasons)]
        if len(groups) > SHOWN:
            rest = sum(len(names) for names in list(groups.values())[SHOWN:])
            lines.append(tr("and {count} other files", count=rest))
        lines.append(tr("what was fetched is kept"))
        hints = ("python3 tasks.py mirrors --probe", tr("the same command with --mirror NAME"))
        super().__init__("\n       ".join(lines), hints=hints)


def _files(count: int) -> str:
    return tr("(1 file)") if count == 1 else tr("({count} files)", count=count)


def _said(names: Sequence[str], reasons: Sequence[tuple[str, str]]) -> list[str]:
    name = names[0] if len(names) == 1 else tr("{name} and {count} more", name=names[0], count=len(names) - 1)
    if not reasons:
        return [tr("{name}: no mirror offers such files", name=name)]
    head = tr("{name} could not be had from any of {count} mirrors", name=name, count=len(reasons))
    width = max(MIRROR_COLUMNS, *(len(mirror) + 1 for mirror, _ in reasons))
    return [head, *(f"{console.pad(mirror, width)}{redact(reason)}" for mirror, reason in reasons)]
