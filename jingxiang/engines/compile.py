"""Compile the Python files of wheels. A program for the Python that will run them: `python -I compile.py JOB.json`.

JOB.json: `{TARGET: WHEEL, …}`. The bytecode of a WHEEL goes below TARGET, by its names below site-packages, and the
SHA-256 of each file into TARGET.json. What is no Python is left out, as by every installer. The same wheel gives the
same bytes anywhere: the path in them is the relative one, which Python corrects on import, and instead of a time they
hold the hash of the source, which Python is told not to compare (PEP 552).
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import marshal
import os
import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

CHUNK = 64  # files that a process takes at a time
UNCHECKED = (0b01).to_bytes(4, "little")  # flags of PEP 552: by hash, not compared
# Where the parts of a wheel's .data folder go that are not put beside the rest.
ELSEWHERE = ("scripts", "headers", "data")


def main(job: Path) -> None:
    """Compile everything, on all cores."""
    targets = json.loads(job.read_text(encoding="utf-8"))
    files = [(target, wheel, *names) for target, wheel in targets.items() for names in sources(wheel)]
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        done = list(pool.map(compiled, files, chunksize=CHUNK))
    for target in targets:
        mine = [each for file, each in zip(files, done, strict=True) if file[0] == target and each]
        Path(f"{target}.json").write_text(json.dumps(dict(mine)), encoding="utf-8")


@functools.lru_cache(maxsize=4)
def opened(wheel: str) -> zipfile.ZipFile:
    """A wheel stays open while its files are read one after the other. Only in a process of the pool: one that was open
    before the pool was made would be read by all of them at the same place."""
    return zipfile.ZipFile(wheel)


def sources(wheel: str) -> Iterator[tuple[str, str]]:
    """The Python files of a wheel: the name in it, and the one below site-packages."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    for name in names:
        if not {"", ".", ".."}.isdisjoint(name.split("/")):  # it would lead out of the target
            continue
        top, _, rest = name.partition("/")
        scheme, _, inner = rest.partition("/")
        if name.endswith(".py") and not (top.endswith(".data") and scheme in ELSEWHERE):
            yield name, inner if top.endswith(".data") else name


def compiled(file: tuple[str, str, str, str]) -> tuple[str, str] | None:
    """Compile one; its name below the target, and its SHA-256. None if it is no Python."""
    target, wheel, member, name = file
    source = opened(wheel).read(member)
    try:
        code = compile(source, name, "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return None
    body = importlib.util.MAGIC_NUMBER + UNCHECKED + importlib.util.source_hash(source) + marshal.dumps(code)
    made = importlib.util.cache_from_source(name)
    path = Path(target, made)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)
    path.chmod(0o444)
    return made, hashlib.sha256(body).hexdigest()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
