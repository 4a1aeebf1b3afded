"""Modules that pip carries in itself: the toolkit has its own, but the bootstrap runs before anything is installed."""

from __future__ import annotations

import importlib
import sys
import sysconfig
from pathlib import Path
from typing import Any


def module(name: str) -> Any:
    """A module of that name: the installed one, else pip's own copy, else that of the pip inside `ensurepip`."""
    for each in (name, f"pip._vendor.{name}"):
        try:
            return importlib.import_module(each)
        except ImportError:
            continue
    import ensurepip

    folders = [Path(ensurepip.__file__).parent / "_bundled", Path("/usr/share/python-wheels")]
    if folder := sysconfig.get_config_var("WHEEL_PKG_DIR"):
        folders.insert(0, Path(folder))
    wheels = [str(wheel) for folder in folders for wheel in sorted(folder.glob("pip-*.whl"))]
    sys.path[:0] = wheels[:1]
    try:
        return importlib.import_module(f"pip._vendor.{name}")
    finally:
        sys.path[: len(wheels[:1])] = []
