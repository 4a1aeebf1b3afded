"""SDKs of clusters and clouds: each runs in a program of ours, in an environment of its own (see `commands.engines`).

The program is a module beside this one, and finds our code after all that its environment has. It reads one JSON
object, which may hold secrets, from its stdin, and prints events as JSON lines.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jingxiang import process
from jingxiang.errors import JingxiangError
from jingxiang.remotes.base import Tools

Event = Mapping[str, Any]
ROOT = Path(__file__).resolve().parent.parent.parent
START = "import runpy, sys; sys.path.append(sys.argv[1]); runpy.run_module(sys.argv[2], run_name='__main__')"


class Refused(JingxiangError):
    """What the program ended with: `kind` of the error, and what belongs to it."""

    def __init__(self, name: str, event: Event) -> None:
        self.kind, self.event = str(event.get("kind", "")), event
        super().__init__(f"{name}: {event.get('text') or self.kind}")


@dataclass(frozen=True)
class Sdk:
    """One of them. `name`: of its environment, and of the program (NAME_client)."""

    name: str
    tools: Tools

    def events(self, action: str, **job: object) -> Iterator[Event]:
        """What happens while it does something; the last one is the result. Raises `Refused`, `ProcessFailed`."""
        argv: list[str | Path] = [self.tools(self.name), "-I", "-c", START, ROOT, f"{__package__}.{self.name}_client"]
        given = json.dumps({"action": action, **job})
        refused: Refused | None = None
        try:
            for line in process.lines(argv, name=self.name, given=given):
                event: Event = json.loads(line)
                if event["event"] == "error":
                    refused = Refused(self.name, event)
                else:
                    yield event
        except process.ProcessFailed:
            if refused is None:
                raise
        if refused:
            raise refused

    def ask(self, action: str, **job: object) -> Event:
        """The result alone."""
        *_, last = self.events(action, **job)
        return last
