"""What was looked at, how it is, and what puts it right: the lines of `doctor`, and of a check before a deployment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jingxiang import console
from jingxiang.language import tr

OK, NOTE, PROBLEM = "ok", "note", "problem"
MARKS = {OK: console.GREEN, NOTE: console.YELLOW, PROBLEM: console.RED}


@dataclass(frozen=True)
class Finding:
    """One line of a report. A `problem` stops what was asked for; a `note` only costs speed or a feature."""

    subject: str
    state: str
    text: str
    fix: str = ""


def show(findings: Sequence[Finding]) -> None:
    rows = []
    for each in findings:
        rows.append((console.paint(console.pad(tr(each.state), 5), MARKS[each.state]), tr(each.subject), each.text))
        if each.fix:
            rows.append(("", "", f"-> {each.fix}"))
    console.table(rows)
