"""What this machine remembers of registries: which repository has had which blob, so that another one can take it from
there (a "mount") instead of getting it again. A hint, never a promise.

A JSON file: by registry, by SHA-256 of the blob, the repositories; the newest last everywhere.
"""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from jingxiang.folder_lock import locked

BLOBS = 4000  # of a registry: some hundred images
REPOSITORIES = 3  # of a blob

Noted = dict[str, dict[str, list[str]]]


@dataclass(frozen=True)
class Notes:
    """The file need not be there, nor its folder."""

    file: Path

    def repositories(self, registry: str, sha256: str) -> list[str]:
        """Where a blob was seen in a registry, the newest first."""
        return self._read().get(registry, {}).get(sha256, [])[::-1]

    def add(self, registry: str, repository: str, digests: Iterable[str]) -> None:
        """Where blobs are now. Raises OSError if the file cannot be written."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with locked(self.file.parent):
            noted = self._read()
            blobs = noted.setdefault(registry, {})
            for sha256 in digests:
                before = [each for each in blobs.pop(sha256, []) if each != repository]
                blobs[sha256] = [*before, repository][-REPOSITORIES:]
            noted[registry] = dict(list(blobs.items())[-BLOBS:])
            part = self.file.with_name(f"{self.file.name}.{secrets.token_hex(4)}.part")
            part.write_text(json.dumps(noted), encoding="utf-8")
            part.replace(self.file)

    def _read(self) -> Noted:
        """Nothing, if it is not what we have written."""
        with contextlib.suppress(OSError, ValueError, AttributeError, TypeError):
            return {
                str(registry): {str(sha256): [str(each) for each in names] for sha256, names in blobs.items()}
                for registry, blobs in json.loads(self.file.read_text(encoding="utf-8")).items()
            }
        return {}
