"""Install conda packages from files. A program for a Python that has py-rattler: `python -I link.py JOB.json`.

JOB.json: `packages` (paths), `prefix` (empty folder), `final` (what it will be called), `cache` (folder to unpack in).
Every address is that of a file here, so there is nothing to ask a network for.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from rattler import RepoDataRecord, install
from rattler.exceptions import ExtractError, InstallerError, IoError, LinkError, TransactionError


async def main(job: Mapping[str, Any]) -> None:
    """Unpack what the cache has not, and link it."""
    records = [await RepoDataRecord.from_package_archive(path) for path in job["packages"]]
    await install(
        records, job["prefix"], cache_dir=job["cache"], installed_packages=[], platform=None, show_progress=False,
        alternative_target_prefix=job["final"],
    )  # fmt: skip


def ended(code: int, text: str = "") -> NoReturn:
    """End at once: py-rattler's threads may crash a Python that takes its time."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201 (a program of its own)
    os._exit(code)


if __name__ == "__main__":
    try:
        asyncio.run(main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
    except (ExtractError, InstallerError, IoError, LinkError, TransactionError, OSError) as error:
        ended(1, str(error))
    ended(0)
