"""What a bench on a GPU ran on."""

from __future__ import annotations

import subprocess
from importlib import metadata
from pathlib import Path

import torch

from jingxiang import gpu

ROOT = Path(__file__).resolve().parent.parent.parent.parent
LIBRARIES = ("torch", "diffusers", "transformers")


def card(commit: str = "") -> dict[str, object]:
    """The card, its driver, the libraries and the commit (the one that is checked out, if none is given)."""
    found = gpu.detect().cards
    return {
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        "gpus": len(found),
        "driver": found[0].driver if found else "",
        "cuda": torch.version.cuda or "",
        **{name: metadata.version(name) for name in LIBRARIES},
        "commit": commit or _checked_out(),
    }


def _checked_out() -> str:
    argv = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:  # no git
        return ""
