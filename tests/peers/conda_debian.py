"""The Python of a small Debian as conda packages, and that Debian without it.

conda-forge's Python brings all libraries but the C library, and finds them beside itself: conda-build writes a DT_RPATH
of `$ORIGIN/../lib` into the program, which counts for what it loads later, too. So does patchelf here.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tests.peers import channel, system

NAME = "python3.11"
LIBRARIES = "usr/lib/x86_64-linux-gnu"
# By the packages that conda-forge has them in.
PACKAGES = {
    "bzip2": ("libbz2",), "libexpat": ("libexpat",), "libffi": ("libffi",), "liblzma": ("liblzma",),
    "libsqlite": ("libsqlite3",), "libuuid": ("libuuid",), "libxcrypt": ("libcrypt",), "libzlib": ("libz",),
    "ncurses": ("libncursesw", "libpanelw", "libtinfo"), "openssl": ("libcrypto", "libssl"),
    "readline": ("libreadline",),
}  # fmt: skip


@dataclass(frozen=True)
class Parted:
    """A channel with the packages of a Python and its libraries, and a tar of the system without any of them."""

    channel: Path
    packages: tuple[Path, ...]
    rest: bytes


def parted(tar: Path, folder: Path) -> Parted:
    """`tar`: as `base_image` makes it; `folder`: empty, for the channel."""
    system.require(shutil.which("patchelf"), "no patchelf: apt-get install patchelf")
    there, found, rest = folder / "python", folder / "conda-forge", io.BytesIO()
    with tarfile.open(tar) as whole, tarfile.open(fileobj=rest, mode="w") as left:
        for member in whole:
            name = member.name.removeprefix("./")
            if _is_taken(name):
                _unpack(whole, member, there / name)
            else:
                left.addfile(member, whole.extractfile(member) if member.isfile() else None)
    certificates = {"ssl/cacert.pem": channel.File(b"certificate\n"), "ssl/cert.pem": channel.File(link="cacert.pem")}
    packages = [
        channel.write(found, "ca-certificates", "1.0", certificates, subdir="noarch"),
        *(channel.write(found, name, "1.0", dict(_libraries(there, names))) for name, names in PACKAGES.items()),
        _python(found, there),
    ]
    shutil.rmtree(there)
    return Parted(folder, tuple(packages), rest.getvalue())


def _is_taken(name: str) -> bool:
    path = PurePosixPath(name)
    if str(path.parent) == LIBRARIES:
        return path.name.partition(".so")[0] in {each for names in PACKAGES.values() for each in names}
    return name.startswith(("usr/bin/py", "usr/lib/python3"))


def _unpack(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if reading := archive.extractfile(member) if member.isfile() else None:
        target.write_bytes(reading.read())
        target.chmod(member.mode)
    elif member.issym() and not member.linkname.startswith("/"):  # those lead to settings of the machine
        target.symlink_to(member.linkname)


def _libraries(there: Path, names: tuple[str, ...]) -> Iterator[tuple[str, channel.File]]:
    for path in sorted((there / LIBRARIES).iterdir()):
        if path.name.partition(".so")[0] in names:
            yield (
                f"lib/{path.name}",
                (channel.File(link=str(path.readlink())) if path.is_symlink() else channel.File(path.read_bytes())),
            )


def _python(found: Path, there: Path) -> Path:
    program, near = there / "usr" / "bin" / NAME, f"$ORIGIN/../{LIBRARIES.removeprefix('usr/')}"
    for rpath in (near, "$ORIGIN/../lib"):  # first where its libraries are now, to hear what it is
        subprocess.run(["patchelf", "--force-rpath", "--set-rpath", rpath, program], check=True)
        if rpath == near:
            asked = subprocess.run([program, "-V"], capture_output=True, text=True, check=True)
    return channel.python_of(
        found, asked.stdout.split()[1], program.read_bytes(), there / "usr" / "lib" / NAME, base="/usr"
    )
