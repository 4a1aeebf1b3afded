"""From a bare Python to the toolkit: makes `.venv` from a hash-checked lock and continues in it.

`tasks.py` calls `enter` before it imports anything else. Standard library only. The top of this module, like `errors`
and `language`, must be parsed by Python 3.6, so that an old Python is told what to do: no newer syntax here, and
whatever has it is imported after the version check.
"""

import contextlib
import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Iterator, List, NoReturn, Optional

from jingxiang.errors import JingxiangError, UnknownName, UsageError
from jingxiang.language import LANGUAGES, tr

if TYPE_CHECKING:
    from jingxiang.mirrors import MirrorSet
    from jingxiang.wheels import Wheels

ROOT = Path(__file__).resolve().parent.parent
TASKS = ROOT / "tasks.py"
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LOCK = ROOT / "envs" / "locks" / "toolkit.txt"
# Written first as BUILDING, last as the lock's digest: a folder without the latter is half-made, one without the file
# is the user's own. That is added to (ADOPTED) and never removed.
STAMP = VENV / "jingxiang-toolkit"
BUILDING = "building"
ADOPTED = " adopted"
OLDEST, NEWEST = (3, 10), (3, 13)
VERSION = "import sys; print('{}.{}'.format(*sys.version_info[:2]))"


def enter() -> None:
    """Return in the toolkit's own Python; anywhere else, make it and continue there, with the same arguments.

    Called by `python3 tasks.py …` and, because `invoke` imports tasks.py, by `invoke …`. Any other importer (a test, an
    editor) is left alone.
    """
    caller = _caller()
    if caller is None:
        return
    try:
        arguments = _take_language(sys.argv[1:])
        if caller == "tasks" and len(arguments) == len(sys.argv) - 1 and _inside() and _current():
            return
        if not _current():
            check_python(sys.version_info[:2])
            _make(_option(arguments, "--mirror") or "auto")
    except JingxiangError as error:
        _end(error)
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    os.execv(str(PYTHON), [str(PYTHON), str(TASKS), *arguments])


def check_python(version: "tuple") -> None:  # type: ignore[type-arg]
    """Refuse a Python that the locks were not made for, and name one on this machine that will do."""
    if OLDEST <= tuple(version) <= NEWEST:
        return
    names = ["python3.{}".format(minor) for minor in range(NEWEST[1], OLDEST[1] - 1, -1)]
    found = [name for name in names if _works(name)]
    message = tr(
        "Python {version} cannot run this; it needs {oldest} to {newest}", version="{}.{}".format(*version),
        oldest="{}.{}".format(*OLDEST), newest="{}.{}".format(*NEWEST),
    )  # fmt: skip
    advice = "{} tasks.py {}".format(found[0] if found else "python3.11", " ".join(sys.argv[1:])).strip()
    word = (
        tr("; try: {command}")
        if found
        else tr("; install one (apt-get install python3.11 python3.11-venv), then: {command}")
    )
    raise UsageError(message + word.format(command=advice))


def _works(name: str) -> bool:
    """Whether a Python is there and starts (a pyenv shim may be on PATH with nothing behind it)."""
    path = shutil.which(name)
    return (
        path is not None
        and subprocess.call([path, "-c", ""], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0
    )


def _caller() -> "Optional[str]":
    """Who runs: `tasks` (python3 tasks.py), `invoke` (in any of its forms), or None."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if getattr(spec, "name", "").split(".")[0] == "invoke":
        return "invoke"
    program = Path(sys.argv[0] or ".")
    if program.name in ("invoke", "inv"):
        return "invoke"
    file = getattr(main, "__file__", None)
    return "tasks" if file and Path(file).resolve() == TASKS else None


def _inside() -> bool:
    return Path(sys.prefix).resolve() == VENV.resolve()


def _current() -> bool:
    """Whether `.venv` is complete, made from the lock as it is now, and its Python still works."""
    try:
        return STAMP.read_text().startswith(_lock_digest()) and os.access(str(PYTHON), os.X_OK)
    except OSError:
        return False


def _lock_digest() -> str:
    return hashlib.sha256(LOCK.read_bytes()).hexdigest()


def _option(arguments: "List[str]", name: str) -> "Optional[str]":
    """The value of `--name VALUE` or `--name=VALUE`, wherever it stands; what follows `--` is another program's."""
    arguments = arguments[: arguments.index("--")] if "--" in arguments else arguments
    for index, argument in enumerate(arguments):
        if argument == name and index + 1 < len(arguments):
            return arguments[index + 1]
        if argument.startswith(name + "="):
            return argument[len(name) + 1 :]
    return None


def _take_language(arguments: "List[str]") -> "List[str]":
    """The arguments without `--lang X`, which holds for every task and goes into the environment."""
    language = _option(arguments, "--lang")
    if language is None:
        return arguments
    if language not in LANGUAGES:
        raise UnknownName("language", language, LANGUAGES)
    os.environ["JINGXIANG_LANG"] = language
    end = arguments.index("--") if "--" in arguments else len(arguments)
    rest = [argument for argument in arguments[:end] if not argument.startswith("--lang=")]
    if "--lang" in rest:
        at = rest.index("--lang")
        del rest[at : at + 2]
    return rest + arguments[end:]


def _make(mirror: str) -> None:
    """Make `.venv`, or bring one that is there up to the lock. On failure nothing of ours stays behind."""
    from jingxiang import mirrors, process
    from jingxiang.folder_lock import locked

    known = mirrors.chosen(ROOT, mirror)
    for module in ("venv", "ensurepip"):
        if importlib.util.find_spec(module) is None:
            package = "python3.{}-venv".format(sys.version_info[1])
            raise UsageError(
                tr(
                    "this Python has no '{module}' module; install it: apt-get install {package}",
                    module=module,
                    package=package,
                )
            )
    if not os.access(str(ROOT), os.W_OK):
        raise UsageError(tr("cannot write to {folder}; use a checkout in a folder of your own", folder=ROOT))
    with locked(ROOT), _undone_on_failure():
        if _current():  # made by another process while we waited
            return
        foreign = VENV.exists() and (not STAMP.exists() or STAMP.read_text().endswith(ADOPTED))
        if not foreign:
            shutil.rmtree(str(VENV), ignore_errors=True)
            _say("toolkit", tr("making .venv with Python {version}", version="{}.{}".format(*sys.version_info[:2])))
            VENV.mkdir()
            STAMP.write_text(BUILDING)
            # From within another virtual environment, the Python below it: ours must not depend on theirs.
            base = getattr(sys, "_base_executable", None) or sys.executable
            process.check([base, "-m", "venv", str(VENV)], name="python -m venv")
        _install(known, mirror)
        STAMP.write_text(_lock_digest() + (ADOPTED if foreign else ""))


def _install(known: "MirrorSet", mirror: str) -> None:
    """The locked packages, fetched from whichever mirrors work and installed without a network."""
    from jingxiang import locks, pip_client, process
    from jingxiang.commands import wheels
    from jingxiang.places import here

    if process.run([PYTHON, "-m", "pip", "--version"]).code:
        raise UsageError(tr("{folder} was not made by this toolkit and has no pip; move it away", folder=VENV))
    version = process.check([PYTHON, "-c", VERSION], name="python").stdout.strip()
    lock = locks.read(LOCK)

    def with_wheels(found: "Wheels") -> None:
        links = VENV / "wheels"
        with found.folder(links):
            pip_client.install(PYTHON, LOCK, links)

    count = wheels.install(here(), known, wheels.Wanted(lock, version, PYTHON), with_wheels, mirror=mirror)
    _say("toolkit", tr("{count} packages installed, every hash checked", count=count))


@contextlib.contextmanager
def _undone_on_failure() -> "Iterator[None]":
    """Remove a half-made `.venv` if anything goes wrong, Ctrl-C and a polite kill included."""

    def stop(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except BaseException:
        if STAMP.exists() and STAMP.read_text() == BUILDING:
            shutil.rmtree(str(VENV), ignore_errors=True)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _say(verb: str, text: str) -> None:
    from jingxiang import console

    console.line(verb, text)


def _end(error: JingxiangError) -> "NoReturn":
    sys.stderr.write("error: " + error.message + "\n")
    for hint in error.hints:
        sys.stderr.write("try:   " + hint + "\n")
    raise SystemExit(error.exit_code)
