"""What goes into an image: weights, environment, app and what was compiled, as trees of files, each with a list of what
must be in it.

Lists are in the format of `sha256sum`, by paths below our folder in the image, and name regular files only:
models.sha256, environment.sha256, app.sha256, artifacts.sha256. `sha256sum --check` reads them; so does the app's own
`verify`.
"""

from __future__ import annotations

import json
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from jingxiang import compiled, environments, inventory, layers, process, storage
from jingxiang.base_images import BaseImage
from jingxiang.bytecode import COMPILER
from jingxiang.compiled import Artifact
from jingxiang.digest import sha256_bytes, sha256_file, short
from jingxiang.environments import PYTHON, Environment
from jingxiang.errors import JingxiangError, UsageError
from jingxiang.image_definition import Definition
from jingxiang.inventory import LINK, Seen
from jingxiang.language import tr
from jingxiang.layers import Entry, Later, Tree
from jingxiang.places import Places
from jingxiang.store import Store
from jingxiang.wheels import SEEN

LARGE_BYTES = 64_000_000  # a file of weights from there on has a layer of its own
CODE = ("app", "jingxiang")
LEFT_OUT = ("__pycache__", "tests")
SOURCES = (".py", ".toml", ".json", ".lock", ".png", ".jpg", ".svg", ".html", ".css", ".js")
# Folders of `jingxiang` that no app imports (tests/test_imports.py holds that): they would be sent with each change.
TOOLKIT_ALONE = ("commands", "engines", "fetch", "hubs", "remotes", "sinks")
KEPT = 3  # sets of bytecode that are made here
LAYOUT = 2  # of the layer of an environment; part of what its digest is remembered by
# Where images have a Python that is not ours, the likelier first.
PYTHONS = ("usr/local/bin", "usr/bin")
# What wheels may expect of a system beside the C library (PEP 600), and Debian's slim images have only by the way.
LIBRARY = "libstdc++.so.6"
BRINGS_LIBRARY = "libstdcxx"  # the conda package that has it
LIBRARIES = ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "usr/lib64", "lib64", "usr/lib", "lib")


class NoPython(UsageError):
    """An environment without a Python of its own on a base that has none."""

    def __init__(self, base: BaseImage, version: str) -> None:
        super().__init__(
            tr("{image}: has no Python {version}, and the engine venv brings none", image=base.reference,
               version=version),
            hints=(tr("--engine mamba, or a base that has it: --base python:{version}-slim", version=PYTHON),),
        )  # fmt: skip


class NoLibrary(UsageError):
    """A base without the library that wheels expect of every system."""

    def __init__(self, base: BaseImage) -> None:
        super().__init__(
            tr("{image}: has no {library}, which the packages need", image=base.reference, library=LIBRARY),
            hints=(tr("a base that has it: --base debian:bookworm-slim"),),
        )


class LeadsOut(JingxiangError):
    """A link in an environment to a place of this machine, which an image does not have."""

    def __init__(self, entry: Entry) -> None:
        super().__init__(tr("{path}: leads out of the environment, to {link}", path=entry.path, link=entry.link))


class UnreadableBase(JingxiangError):
    """A layer of a base image that cannot be looked into."""

    def __init__(self, base: BaseImage, reason: object) -> None:
        super().__init__(tr("{image}: a layer cannot be read: {reason}", image=base.reference, reason=reason))


@dataclass(frozen=True)
class Piece:
    """One layer to be: what people call it, and its files."""

    title: str
    tree: Tree | Later


def weights(store: Store, folder: str, name: str, files: Mapping[str, str]) -> list[Piece]:
    """The layers of a model from the store: its large files one by one, then all others. `files`: path to digest."""
    return _pieces(name, {path: store.blob(sha256) for path, sha256 in files.items()}, f"{folder}/models/{name}")


def made_weights(made: Path, folder: str, name: str) -> tuple[list[Piece], dict[str, str]]:
    """The same of a model that the app has made, with the digest of each file."""
    digests = inventory.looks(made)
    return _pieces(name, {path: made / path for path in digests}, f"{folder}/models/{name}"), digests


def environment(environment: Environment, store: Store, folder: str, python: str, *, kept: Path) -> Piece:
    """The environment at its place. `python`: the program of the base image that it uses, if it has none of its own;
    `kept`: where bytecode of what conda packages bring is, for the next time.

    It stays as it was made, so its stamp, which was written last, stands for its 45,000 files.
    """
    stamp = (environment.folder / environments.STAMP).stat()
    look = [str(environment.folder), stamp.st_dev, stamp.st_ino, stamp.st_size, stamp.st_mtime_ns]
    key = json.dumps([LAYOUT, folder, python, look])
    return Piece(environment.name, Later(key, lambda: _environment(environment, store, folder, python, kept)))


def _environment(environment: Environment, store: Store, folder: str, python: str, kept: Path) -> Tree:
    inside = f"{folder}/environment"
    found = {entry.path: entry for entry in layers.below(environment.folder, inside)}
    for name in (environments.STAMP, ".lock", *(f"{environment.site}/{each}" for each in environments.WRITTEN_LATER)):
        found.pop(f"{inside}/{name}", None)
    if python:
        found |= {entry.path: entry for entry in _leading_to(python, inside, environment.version)}
    if environment.conda:
        compiled = _compiled(_of_conda(environment), environment, kept)
        found |= {f"{inside}/{path}": layers.text(f"{inside}/{path}", body) for path, body in compiled.items()}
    if stray := next((each for each in found.values() if each.link.startswith("/") and each.link != python), None):
        raise LeadsOut(stray)
    digests = _digests(environment.folder, store)
    lines = _listed(
        (path.removeprefix(f"{folder}/"), _digest(entry, digests, inside))
        for path, entry in found.items()
        if entry.source is not None
    )
    return layers.tree([*found.values(), layers.text(f"{folder}/environment.sha256", lines)])


def _of_conda(environment: Environment) -> dict[str, bytes]:
    """The Python files of conda packages. They may come with bytecode, which holds the time of each source: in an image
    all files are of one time, so Python would compile them at every start, and could not keep what it has compiled."""
    stamp = environments.stamped(environment.folder)
    assert stamp, environment.folder
    return {
        path: (environment.folder / path).read_bytes()
        for path, digest in stamp.files.items()
        if path.startswith("lib/python") and path.endswith(".py") and not digest.startswith(LINK)
    }


def _digest(entry: Entry, digests: Mapping[str, str], inside: str) -> str:
    return (
        sha256_bytes(entry.source)
        if isinstance(entry.source, bytes)
        else digests[entry.path.removeprefix(f"{inside}/")]
    )


def app(
    root: Path,
    environment: Environment,
    definition: Definition,
    models: Mapping[str, str],
    bill: str,
    *,
    kept: Path,
) -> Piece:
    """The code, compiled by the environment's Python, with the list of models and the bill of materials.

    `models`: digests by path below our folder; `kept`: where bytecode is, for the next time.
    """
    folder = definition.folder.lstrip("/")
    inside = (path.relative_to(root) for path in code(root))
    sources = {path.as_posix(): (root / path).read_bytes() for path in inside if path.parts[1] not in TOOLKIT_ALONE}
    compiled = _compiled(sources, environment, kept)
    files = {**sources, **compiled}
    texts = {
        **files,
        "app.sha256": _listed((path, sha256_bytes(body)) for path, body in files.items()),
        "models.sha256": _listed(models.items()),
        "sbom.cdx.json": bill.encode(),
    }
    entries = [layers.text(f"{folder}/{path}", body) for path, body in texts.items()]
    outputs = layers.folder(definition.outputs.lstrip("/"), owner=definition.user)
    places = [outputs, layers.folder(f"{folder}/models")]
    return Piece("", layers.tree([*entries, *places]))


def artifacts(found: Sequence[Artifact], folder: str) -> Piece:
    """What was compiled beforehand, with its list; its manifests say what each is for."""
    entries, listed = [], {}
    for each in found:
        for name in (*each.files, compiled.MANIFEST):
            path = f"{compiled.FOLDER}/{each.folder.name}/{name}"
            entries.append(_plain(layers.file(f"{folder}/{path}", each.folder / name)))
            listed[path] = sha256_file(each.folder / name)
    entries.append(layers.text(f"{folder}/{compiled.FOLDER}.sha256", _listed(listed.items())))
    return Piece(artifacts_title(found), layers.tree(entries))


def artifacts_title(found: Sequence[Artifact]) -> str:
    """The models that they are of."""
    return ", ".join(sorted({each.key.model for each in found}))


def python_of(base: BaseImage, store: Store, version: str, notes: Path) -> str:
    """The path of the Python that a base image has. Raises `NoLibrary`, `NoPython`, `UnreadableBase`."""
    found = check_library(base, store, version, notes)
    for place in PYTHONS:
        if (path := f"/{place}/python{version}") in found:
            return path
    raise NoPython(base, version)


def check_library(base: BaseImage, store: Store, version: str, notes: Path) -> list[str]:
    """Make sure that a base image has the library that wheels expect of every system; returns what else of interest
    is in it.

    All layers have to be unpacked for that, so the answer is kept in the folder `notes`. Raises `NoLibrary`,
    `UnreadableBase`.
    """
    note = notes / f"{base.manifest.sha256}-{version}"
    if not note.exists():
        names = {f"{place}/python{version}" for place in PYTHONS} | {f"{place}/{LIBRARY}" for place in LIBRARIES}
        there = {name for layer in base.layers for name in _names(base, store.blob(layer.sha256)) if name in names}
        with storage.writing(notes):
            notes.mkdir(parents=True, exist_ok=True)
            note.write_text("".join(f"/{name}\n" for name in sorted(there)), encoding="utf-8")
    found = note.read_text(encoding="utf-8").splitlines()
    if not any(path.endswith(LIBRARY) for path in found):
        raise NoLibrary(base)
    return found


def made(places: Places, environment: Environment, name: str) -> Path:
    """The folder of a model that the app makes by itself, made by the environment; always the same files."""
    code = sha256_bytes((places.root / "app" / "smoke.py").read_bytes())
    among = places.images / "models" / f"{environment.name}-{short(code)}"
    if not (among / name / "model_index.json").exists():
        with storage.writing(among):
            among.mkdir(parents=True, exist_ok=True)
        argv: list[str | Path] = [environment.python, "-B", "-m", "app", "make", "--model", name, "--models", among]
        process.check(argv, name="app make", cwd=places.root)
    return among / name


def _pieces(name: str, files: Mapping[str, Path], inside: str) -> list[Piece]:
    found = {path: layers.file(f"{inside}/{path}", source) for path, source in sorted(files.items())}
    found = {path: _plain(entry) for path, entry in found.items()}
    large = [
        Piece(f"{name} {path}", layers.tree([entry])) for path, entry in found.items() if entry.size >= LARGE_BYTES
    ]
    small = [entry for entry in found.values() if entry.size < LARGE_BYTES]
    return [*large, *([Piece(name, layers.tree(small))] if small else [])]


def _plain(entry: Entry) -> Entry:
    """Weights are not programs, whatever a file system says."""
    return entry._replace(mode=layers.FILE_MODE)


def _leading_to(python: str, inside: str, version: str) -> list[Entry]:
    """A virtual environment of another Python than the one here: its links, and its settings without ours."""
    names = ("python", "python3", f"python{version}")
    settings = f"home = {PurePosixPath(python).parent}\nimplementation = CPython\nversion_info = {version}\n" \
               "include-system-site-packages = false\n"  # fmt: skip
    links = [layers.link(f"{inside}/bin/{name}", python if name == "python" else "python") for name in names]
    return [*links, layers.text(f"{inside}/pyvenv.cfg", settings.encode())]


def _digests(folder: Path, store: Store) -> dict[str, str]:
    seen = Seen(store.derived / SEEN)  # most of it was read when it was installed
    found = inventory.looks(folder, seen)
    if store.is_ours:
        seen.keep()
    return {path: digest for path, digest in found.items() if not digest.startswith(LINK)}


def _listed(files: Iterable[tuple[str, str]]) -> bytes:
    return "".join(f"{digest}  {path}\n" for path, digest in sorted(files)).encode("utf-8", "surrogateescape")


def code(root: Path) -> Iterator[Path]:
    """The files of app and toolkit that run."""
    for top in CODE:
        for path in sorted((root / top).rglob("*")):
            inside = path.relative_to(root).parts
            if (
                path.is_file()
                and path.suffix in SOURCES
                and not any(part in LEFT_OUT or part.startswith(".") for part in inside)
            ):
                yield path


def _compiled(sources: Mapping[str, bytes], environment: Environment, scratch: Path) -> dict[str, bytes]:
    """Bytecode by path, made by the same program as that of wheels: it is given an archive that looks like one."""
    stamp = environments.stamped(environment.folder)
    assert stamp, environment.folder
    wanted = sha256_bytes(b"".join(f"{path}\0{sha256_bytes(body)}\n".encode() for path, body in sources.items()))
    kept = scratch / f"{stamp.tag}-{wanted}"
    if not kept.is_dir():
        with storage.writing(scratch):
            scratch.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix="compile-", dir=scratch) as made:
                wheel, target, job = Path(made, "code.zip"), Path(made, "target"), Path(made, "job.json")
                with zipfile.ZipFile(wheel, "w") as archive:
                    for path, body in sources.items():
                        archive.writestr(path, body)
                target.mkdir()
                job.write_text(json.dumps({str(target): str(wheel)}), encoding="utf-8")
                process.check([environment.python, "-I", "-B", "-W", "ignore", COMPILER, job], name="compile.py")
                shutil.rmtree(kept, ignore_errors=True)
                target.rename(kept)
        for old in sorted(scratch.iterdir(), key=lambda each: each.stat().st_mtime)[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)
    return {path.relative_to(kept).as_posix(): path.read_bytes() for path in sorted(kept.rglob("*.pyc"))}


def _names(base: BaseImage, blob: Path) -> Iterator[str]:
    try:
        with tarfile.open(blob, "r|*") as archive:
            for member in archive:
                yield member.name.removeprefix("./")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UnreadableBase(base, error) from error
