"""`bundle`: a folder that is itself a mirror, for machines without a network, or for a whole team.

pypi/simple/PROJECT/…     an index (PEP 503) with its files beside each page
torch/BUILD/PROJECT/…     the same for PyTorch's own builds
conda/CHANNEL/SUBDIR/…    a channel: packages, and the list of them (repodata.json)
hub/ORG/NAME/resolve/…    weights of models, by the Hub's own paths
oci/blobs/sha256/…        base images, in the OCI image layout (skopeo and others read it, too)
bundle.json               what is in it: path, SHA-256 and size of every file
"""

from __future__ import annotations

import html
import json
import shlex
import sys
import tempfile
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name, parse_wheel_filename

from jingxiang import __version__, base_images, bootstrap, conda_packages, console, gpu, locks, mirrors, profiles, views
from jingxiang.base_images import BaseImage
from jingxiang.commands import bases, engines, fetch, setup, wheels
from jingxiang.commands.wheels import Wanted
from jingxiang.digest import sha256_file
from jingxiang.environments import Environment
from jingxiang.errors import UsageError
from jingxiang.language import tr
from jingxiang.locks import Lock
from jingxiang.mirrors import MirrorSet
from jingxiang.places import Places
from jingxiang.store import Store
from jingxiang.wheels import Wheels

MANIFEST = "bundle.json"
TOOLKIT = "toolkit"
CONDA = "conda"
OCI = "oci"
LAYOUT = {"imageLayoutVersion": "1.0.0"}
SUBDIRS = ("linux-64", "noarch")


@dataclass(frozen=True)
class Entry:
    """One file of a bundle: where it is in it, and where it comes from."""

    path: str
    source: Path
    sha256: str

    @property
    def folder(self) -> str:
        return self.path.rpartition("/")[0]


class NotABundle(UsageError):
    """A folder with something else in it, which would be replaced."""

    def __init__(self, folder: Path) -> None:
        super().__init__(tr("{folder}: is not empty and no bundle; choose another folder", folder=folder))


def bundle(
    places: Places, *, out: str, mirror: str, profile: str, engine: str = engines.AUTO, models: Sequence[str] = ()
) -> None:
    """Write the folder; its path is what goes to stdout. What is not in the store yet is fetched.

    `engine`: the one that machines without a network are to use; `venv` needs no conda packages. Raises `NotABundle`,
    `Unavailable`.
    """
    folder = Path(out).expanduser().absolute()
    _check(folder)
    chosen = profiles.choose(profile, gpu.detect()).profile.name
    images = bases.get(places, mirror=mirror)
    write(places, folder, mirror=mirror, profile=chosen, engine=engine, models=models, images=images)
    console.more(f"python3 tasks.py setup --profile {chosen} --mirror {folder.as_uri()}")
    quoted = shlex.quote(str(folder))
    console.more(tr("for others: python3 -m http.server -d {folder}, and --mirror http://HOST:8000", folder=quoted))
    console.data(str(folder))


def write(
    places: Places, folder: Path, *, mirror: str, profile: str, engine: str, models: Sequence[str],
    images: Sequence[BaseImage] = (),
) -> str:  # fmt: skip
    """The same for one profile, with these base images; gives the name of the engine."""
    _check(folder)
    known = mirrors.chosen(places.root, mirror)
    choice, environment = engines.choose(
        places, known, engine, lambda conda: setup.planned(places, profile, conda), mirror=mirror
    )
    if environment.conda is None:
        console.line("plan", tr("no conda packages in it: {reason}", reason=choice.reason))
    beside = (TOOLKIT, engines.TOOLS) if choice.name == engines.RATTLER else (TOOLKIT,)
    entries = {entry.path: entry for entry in _entries(places, known, mirror, environment, beside)}
    entries |= {entry.path: entry for name in models for entry in _weights(places, mirror, name)}
    entries |= {entry.path: entry for image in images for entry in _blobs(places, image)}
    with tempfile.TemporaryDirectory(prefix="jingxiang-bundle-") as scratch:
        pages = dict(_pages(entries, Path(scratch))) | dict(_layout(images, Path(scratch)))
        sources = {path: entry.source for path, entry in entries.items()} | pages
        manifest = Path(scratch) / MANIFEST
        manifest.write_text(json.dumps(_manifest(entries, pages, profile), indent=2) + "\n", encoding="utf-8")
        total = sum(source.stat().st_size for source in sources.values())
        views.build(folder, {**sources, MANIFEST: manifest})
    text = tr("{count} files, {size}: {profile} and the toolkit", count=len(entries), size=console.size(total),
              profile=profile)  # fmt: skip
    console.line("bundle", text)
    return choice.name


def _check(folder: Path) -> None:
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).is_file():
        raise NotABundle(folder)


def _entries(
    places: Places, known: MirrorSet, mirror: str, environment: Environment, beside: Sequence[str]
) -> Iterator[Entry]:
    """The files of the app's locks, and of others for every Python that can run the toolkit."""
    wanted: list[tuple[Lock, str]] = [(environment.lock, environment.version)]
    (major, oldest), (_, newest) = bootstrap.OLDEST, bootstrap.NEWEST
    for name in beside:
        lock = locks.read(places.locks / f"{name}.txt")
        wanted += [(lock, f"{major}.{minor}") for minor in range(oldest, newest + 1)]
    for lock, python in wanted:
        found = wheels.get(places, known, Wanted(lock, python, Path(sys.executable)), mirror=mirror)
        yield from _files(found, lock)
    if environment.conda:
        packages = engines.needed(places, environment.conda.packages, program=True)
        wheels.fetch(places, known, engines.artifacts(packages), mirror=mirror, pip=Path(sys.executable))
        for each in packages:
            blob = Store(places.store).blob(each.sha256)
            yield Entry(f"{CONDA}/{each.channel}/{each.path}", blob, each.sha256)


def _weights(places: Places, mirror: str, name: str) -> Iterator[Entry]:
    """The files of a model, which is fetched if it is not here."""
    store = Store(places.store)
    for part in fetch.locked(places, name, mirror=mirror).parts:
        for file in part.files:
            path = f"hub/{part.repository}/resolve/{part.revision}/{file.path}"
            yield Entry(path, store.blob(file.sha256), file.sha256)


def _blobs(places: Places, image: BaseImage) -> Iterator[Entry]:
    for blob in (image.manifest, *image.blobs):
        yield Entry(f"{OCI}/blobs/sha256/{blob.sha256}", Store(places.store).blob(blob.sha256), blob.sha256)


def _layout(images: Sequence[BaseImage], scratch: Path) -> Iterator[tuple[str, Path]]:
    """The files that make a folder of blobs an OCI image layout."""
    listed = [
        {**image.manifest.to_json(), "annotations": {"org.opencontainers.image.ref.name": str(image.reference)}}
        for image in images
    ]
    index = {"schemaVersion": 2, "mediaType": base_images.INDEXES[0], "manifests": listed}
    for name, value in (("oci-layout", LAYOUT), ("index.json", index)) if images else ():
        path = scratch / name
        path.write_text(json.dumps(value) + "\n", encoding="utf-8")
        yield f"{OCI}/{name}", path


def _files(found: Wheels, lock: Lock) -> Iterator[Entry]:
    packages = {canonicalize_name(package.name): package for package in lock.packages}
    for name, sha256 in found.digests.items():
        project = parse_wheel_filename(name)[0]
        package = packages[project]
        root = f"torch/{package.build}" if package.space == "torch" else "pypi/simple"
        yield Entry(f"{root}/{project}/{name}", found.store.blob(sha256), sha256)


def _pages(entries: Mapping[str, Entry], scratch: Path) -> Iterator[tuple[str, Path]]:
    """The page of each project, and the list of each part of a channel."""
    folders: dict[str, list[Entry]] = {}
    for entry in entries.values():
        folders.setdefault(entry.folder, []).append(entry)
    channels = {folder.rpartition("/")[0] for folder in folders if folder.startswith(f"{CONDA}/")}
    for folder in (f"{channel}/{subdir}" for channel in channels for subdir in SUBDIRS):  # clients ask for both
        folders.setdefault(folder, [])
    for number, (folder, files) in enumerate(sorted(folders.items())):
        if folder.startswith(("hub/", f"{OCI}/")):
            continue
        if folder.startswith(f"{CONDA}/"):
            listed = scratch / f"{number}.json"
            listed.write_text(_repodata(folder, files), encoding="utf-8")
            yield f"{folder}/repodata.json", listed
            continue
        links = "".join(f"<a href=\"{_href(each)}\">{html.escape(each.path.rpartition('/')[2])}</a><br>\n"
                        for each in sorted(files, key=lambda each: each.path))  # fmt: skip
        page = scratch / f"{number}.html"
        page.write_text(f"<!DOCTYPE html>\n<html><body>\n{links}</body></html>\n", encoding="utf-8")
        yield f"{folder}/index.html", page


def _repodata(folder: str, files: Sequence[Entry]) -> str:
    """The packages of one part of a channel, as conda clients read it."""
    listed: dict[str, dict[str, object]] = {"packages": {}, "packages.conda": {}}
    for each in sorted(files, key=lambda each: each.path):
        name = each.path.rpartition("/")[2]
        record = {**conda_packages.index(name, each.source), "sha256": each.sha256,
                  "size": each.source.stat().st_size}  # fmt: skip
        listed["packages.conda" if name.endswith(".conda") else "packages"][name] = record
    about = {"info": {"subdir": folder.rpartition("/")[2]}, "repodata_version": 1}
    return json.dumps({**about, **listed}, indent=1) + "\n"


def _href(entry: Entry) -> str:
    return f"{urllib.parse.quote(entry.path.rpartition('/')[2])}#sha256={entry.sha256}"


def _manifest(entries: Mapping[str, Entry], pages: Mapping[str, Path], profile: str) -> dict[str, object]:
    files = {path: (entry.source, entry.sha256) for path, entry in entries.items()}
    files |= {path: (page, sha256_file(page)) for path, page in pages.items()}
    listed = {path: {"sha256": sha256, "size_bytes": source.stat().st_size}
              for path, (source, sha256) in sorted(files.items())}  # fmt: skip
    return {"made_by": f"jingxiang {__version__}", "profiles": [profile, TOOLKIT], "files": listed}
