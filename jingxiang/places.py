"""Where things are: the checkout, the toolkit's own folder in it, and the store that checkouts share."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from jingxiang import compiled


@dataclass(frozen=True)
class Places:
    """All paths follow from the checkout, the home folder (JINGXIANG_HOME, else `.jingxiang` in the checkout) and the
    store (JINGXIANG_STORE, else `jingxiang/store` in the user's cache folder). Videos may go somewhere else
    (JINGXIANG_OUTPUTS, else `outputs` in the home), and so may what is compiled for a GPU (JINGXIANG_ARTIFACTS, else
    `artifacts` in the home): in a container the home cannot be written.

    Put the home on the fastest disk: environments and weights live there. On the same disk as the store, they share
    its files.
    """

    root: Path
    home: Path
    store: Path
    videos: Path | None = None
    compiled: Path | None = None

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
        return self.videos or self.home / "outputs"

    @property
    def artifacts(self) -> Path:
        """Where what is compiled for a GPU goes."""
        return self.compiled or self.baked

    @property
    def baked(self) -> Path:
        """What was compiled before an image was made is here, in the image."""
        return self.home / compiled.FOLDER

    @property
    def images(self) -> Path:
        """What images are made from: environments for another path, digests of layers."""
        return self.home / "images"

    @property
    def current(self) -> Path:
        """Link to the app's environment in use."""
        return self.root / ".env"


def here() -> Places:
    """The places of the checkout that this module lies in."""
    root = Path(__file__).resolve().parent.parent
    return Places(
        root,
        _chosen("JINGXIANG_HOME") or root / ".jingxiang",
        _chosen("JINGXIANG_STORE") or _cached(),
        _chosen("JINGXIANG_OUTPUTS"),
        _chosen("JINGXIANG_ARTIFACTS"),
    )


def _chosen(variable: str) -> Path | None:
    """The folder that the user has chosen; an empty choice is none."""
    value = os.environ.get(variable)
    return Path(value).expanduser().resolve() if value else None


def _cached() -> Path:
    """In the user's cache folder, where the XDG base directory specification puts it: a relative one does not count."""
    caches = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(caches) if Path(caches).is_absolute() else Path.home() / ".cache") / "jingxiang" / "store"
