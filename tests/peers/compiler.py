"""`python -m app`, in which models are compiled to a few bytes: started with this file instead of `-m app`.

What FAKE_COMPILER says goes wrong: `fails`, `hangs` (its own child does, too; both are named in FAKE_COMPILER_PIDS).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from app.artifacts import Key  # noqa: E402
from jingxiang.models import ModelSpec, Preset  # noqa: E402

PROGRAM = (sys.executable, str(Path(__file__).resolve()))
PARTS = ("decoder", "down.0", "mid")
HANG = [sys.executable, "-c", "import time; time.sleep(600)"]


def key(spec: ModelSpec, folder: Path | None, preset: Preset, *, dtype: str) -> Key:
    """As `app.adapters.compiling` has it, of a GPU that nobody has."""
    return Key(spec.name, "sm_00", "2.0", "0", "c0de", preset.width, preset.height, preset.frames, dtype)


def make(
    spec: ModelSpec, folder: Path, preset: Preset, *, dtype: str, into: Path, tell: Callable[[int, int], None]
) -> Key:
    mode = os.environ.get("FAKE_COMPILER", "")
    if mode == "fails":
        raise RuntimeError("ptxas fatal: out of registers")
    if mode == "hangs":
        own = subprocess.Popen(HANG)
        tempfile.mkdtemp()
        Path(os.environ["FAKE_COMPILER_PIDS"]).write_text(f"{os.getpid()} {own.pid}")
        try:
            own.wait()
        finally:
            own.kill()
    for number, part in enumerate(PARTS, 1):
        (into / part).write_bytes(f"{part} of {spec.name} in {folder}".encode())
        tell(number, len(PARTS))
    return key(spec, folder, preset, dtype=dtype)


if __name__ == "__main__":
    fake = types.ModuleType("app.adapters.compiling")
    fake.key, fake.make = key, make  # type: ignore[attr-defined]
    sys.modules[fake.__name__] = fake
    from app.__main__ import main

    sys.exit(main())
