"""Where things are: the checkout and the toolkit's own folder in it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Places:
    """All paths follow from the checkout and the home folder (JINGXIANG_HOME, else `.jingxiang` in the checkout).

    Put the home on the fastest disk: environments and weights live there.
    """

    root: Path
    home: Path

    @property
    def locks(self) -> Path:
        return self.root / "envs" / "locks"

    @property
    def environments(self) -> Path:
        return self.home / "environments"

    @property
    def models(self) -> Path:
        return self.home / "models"

    @property
    def outputs(self) -> Path:
        return self.home / "outputs"

    @property
    def current(self) -> Path:
        """Link to the app's environment in use."""
        return self.root / ".env"


def here() -> Places:
    """The places of the checkout that this module lies in."""
    root = Path(__file__).resolve().parent.parent
    home = os.environ.get("JINGXIANG_HOME")
    return Places(root, Path(home).expanduser().resolve() if home else root / ".jingxiang")
