"""A bare machine: `python3 tasks.py` and `invoke` in a fresh checkout, with every Python that is here."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from jingxiang import locks
from jingxiang.fetch import resolve
from jingxiang.locks import LockedPackage
from tests.peers import checkout, index
from tests.peers.checkout import Checkout, Done
from tests.peers.system import pythons

pytestmark = pytest.mark.e2e
SUPPORTED = ("3.10", "3.11", "3.12", "3.13")
TOO_OLD = ("3.6", "3.7", "3.8", "3.9")
NO_BYTECODE = {"PYTHONDONTWRITEBYTECODE": "1"}  # so that a refused run leaves the folder as it was
PYTHONS = {**pythons(), "3.11": Path(getattr(sys, "_base_executable", sys.executable))}


def python(version: str) -> Path:
    if version not in PYTHONS:
        pytest.skip(f"no Python {version} on this machine")
    return PYTHONS[version]


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all tests that do not look at how it is filled."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def bare(tmp_path: Path, store: Path) -> Checkout:
    """A checkout whose only mirror is the machine's own pip configuration."""
    copied = checkout.copy(tmp_path / "checkout", {"JINGXIANG_STORE": str(store)})
    (copied.folder / "mirrors.toml").write_text('[official]\ndomain = "official"\n')
    return copied


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The locked files of the toolkit, fetched once as pip is configured here."""
    folder = tmp_path_factory.mktemp("wheels")
    lock = checkout.ROOT / "envs" / "locks" / "toolkit.txt"
    argv = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "--require-hashes"]
    made = subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True)
    if made.returncode:  # uv's environments have no pip
        argv[0] = str(checkout.ROOT / ".venv" / "bin" / "python")
    subprocess.run([*argv, "-d", str(folder), "-r", str(lock)], check=True)
    return folder


@pytest.fixture
def local(wheels: Path, tmp_path: Path) -> Iterator[index.Index]:
    with index.serving(wheels, tmp_path / "index.log") as served:
        yield served


def tree(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def one_line_and_nothing_left(done: Done, bare: Checkout, before: set[str], *words: str) -> None:
    assert (done.code, done.stdout) == (2, ""), done
    assert done.stderr.startswith(("error: ", "错误："))
    assert len(done.stderr.splitlines()) == 1, done.stderr
    for word in words:
        assert word in done.stderr
    assert tree(bare.folder) == before


@pytest.mark.parametrize("version", SUPPORTED)
def test_a_bare_python_makes_the_toolkit_once(version: str, bare: Checkout, tmp_path: Path) -> None:
    first = bare.run(python(version), "tasks.py", "--list")
    assert first.code == 0, first.stderr
    assert f"toolkit  making .venv with Python {version}\n" in first.stderr
    assert re.search(r"^toolkit  \d+ packages installed, every hash checked$", first.stderr, re.MULTILINE)
    assert re.search(
        "^  up +Set up, make sure that the model is there, and serve the\\s+app.$", first.stdout, re.MULTILINE
    )
    # again: nothing is made, and the same is printed; from another folder and through a link as well
    again = bare.run(python(version), "tasks.py", "--list")
    assert (again.code, again.stdout, again.stderr) == (0, first.stdout, "")
    link = tmp_path / "link"
    link.symlink_to(bare.folder)
    assert bare.run(python(version), link / "tasks.py", "--list", cwd=tmp_path) == again
    # exit codes and Chinese arrive unchanged
    wrong = bare.run(python(version), "tasks.py", "setpu", "--lang", "zh")
    assert (wrong.code, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("错误：没有名为“setpu”的任务；可选：bench, ")
    # what is installed is what the lock says
    lock = {each.name: each.version for each in wanted(bare, version)}
    listed = bare.run(
        bare.folder / ".venv/bin/python", "-m", "pip", "list", "--format", "json", "--disable-pip-version-check"
    )
    installed = {canonicalize_name(each["name"]): each["version"] for each in json.loads(listed.stdout)}
    installed = {name: found for name, found in installed.items() if name not in ("pip", "setuptools")}
    assert installed == lock
    assert {"invoke", "uv", "docker", "psutil"} <= installed.keys()
    assert ("tomli" in installed) == (version == "3.10")


def test_only_invoke_installed_gives_the_same(bare: Checkout, tmp_path: Path) -> None:
    subprocess.run([python("3.11"), "-m", "venv", tmp_path / "theirs"], check=True)
    theirs = tmp_path / "theirs" / "bin"
    assert bare.run(theirs / "pip", "install", "-q", "--disable-pip-version-check", "invoke").code == 0
    first = bare.run(theirs / "invoke", "--list")
    assert first.code == 0, first.stderr
    assert "toolkit  making .venv" in first.stderr
    direct = bare.run(python("3.11"), "tasks.py", "--list")
    assert (direct.stdout, direct.stderr) == (first.stdout, "")
    ways: list[list[str | Path]] = [
        [python("3.11"), "tasks.py"], [theirs / "invoke"], [theirs / "python", "-m", "invoke"],
    ]  # fmt: skip
    results = [bare.run(*way, "lock", "--chekc") for way in ways]
    expected = "error: lock: no flag '--chekc' (did you mean '--check'?)\ntry:   python3 tasks.py --help lock\n"
    assert results == [Done(2, "", expected)] * 3
    below = bare.folder / "docker"
    assert bare.run(theirs / "invoke", "--list", cwd=below).stdout == first.stdout


def test_a_venv_of_the_user_is_added_to_and_not_replaced(bare: Checkout) -> None:
    subprocess.run([python("3.11"), "-m", "venv", bare.folder / ".venv"], check=True)
    theirs = bare.folder / ".venv" / "bin"
    assert bare.run(theirs / "pip", "install", "-q", "--disable-pip-version-check", "invoke", "six").code == 0
    done = bare.run(theirs / "invoke", "--list")
    assert (done.code, "making .venv" in done.stderr) == (0, False), done.stderr
    with (bare.folder / "envs/locks/toolkit.txt").open("a") as lock:
        lock.write("# a newer lock\n")
    assert bare.run(theirs / "invoke", "--list").code == 0
    assert bare.run(theirs / "python", "-c", "import six, uv").code == 0


def test_a_venv_without_pip_is_not_touched(bare: Checkout) -> None:
    subprocess.run([python("3.11"), "-m", "venv", "--without-pip", bare.folder / ".venv"], check=True)
    before = tree(bare.folder / ".venv")
    done = bare.run(python("3.11"), "tasks.py", "--list")
    assert done.code == 2
    assert "was not made by this toolkit and has no pip; move it away" in done.stderr
    assert tree(bare.folder / ".venv") == before


def test_another_lock_makes_the_toolkit_again(bare: Checkout) -> None:
    assert bare.run(python("3.11"), "tasks.py", "--list").code == 0
    stamp = bare.folder / ".venv" / "mine"
    stamp.write_text("in the old .venv")
    with (bare.folder / "envs/locks/toolkit.txt").open("a") as lock:
        lock.write("# edited\n")
    done = bare.run(python("3.11"), "tasks.py", "--list")
    assert (done.code, "making .venv" in done.stderr, stamp.exists()) == (0, True, False)


def test_two_at_once_make_it_once(bare: Checkout) -> None:
    env = bare.environment()
    argv = [str(python("3.11")), "tasks.py", "--list"]
    both = [
        subprocess.Popen(argv, cwd=bare.folder, env=env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        for _ in range(2)
    ]
    outputs = [each.communicate(timeout=300)[1] for each in both]
    assert [each.returncode for each in both] == [0, 0], outputs
    assert sum("making .venv" in output for output in outputs) == 1


@pytest.mark.parametrize("version", TOO_OLD)
def test_an_old_python_is_told_which_one_to_use(version: str, bare: Checkout, tmp_path: Path) -> None:
    before = tree(bare.folder)
    good = tmp_path / "path"
    good.mkdir()
    (good / "python3.12").symlink_to(python("3.11"))  # any that starts
    done = bare.run(python(version), "tasks.py", "up", "--port", "0", env={"PATH": str(good), **NO_BYTECODE})
    command = "; try: python3.12 tasks.py up --port 0"
    one_line_and_nothing_left(done, bare, before, f"Python {version} cannot run this; it needs 3.10 to 3.13", command)
    done = bare.run(python(version), "tasks.py", env={"PATH": "/nonexistent", **NO_BYTECODE})
    one_line_and_nothing_left(done, bare, before, "install one (apt-get install python3.11 python3.11-venv)")


@pytest.mark.parametrize("module", ["venv", "ensurepip"])
def test_a_python_without_venv_is_told_what_to_install(module: str, bare: Checkout) -> None:
    before = tree(bare.folder)
    code = (
        f"import sys, runpy; sys.modules[{module!r}] = None; sys.argv = ['tasks.py', 'up']; sys.path[0] = '.'\n"
        "runpy.run_path('tasks.py', run_name='__main__')"
    )
    done = bare.run(python("3.12"), "-c", code, env=NO_BYTECODE)
    one_line_and_nothing_left(done, bare, before, f"no '{module}' module; install it: apt-get install python3.12-venv")


def test_a_folder_that_cannot_be_written_is_said(bare: Checkout) -> None:
    before = tree(bare.folder)
    bare.folder.chmod(0o555)
    for parent in bare.folder.parents:
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    # root may write everywhere, so somebody else asks
    user = 65534 if os.getuid() == 0 else None
    interpreter = next((p for p in ("/usr/bin/python3",) if user and Path(p).exists()), str(python("3.11")))
    done = subprocess.run(
        [interpreter, "-B", "tasks.py", "up"], cwd=bare.folder, env=bare.environment({"HOME": "/"}), user=user,
        capture_output=True, text=True,
    )  # fmt: skip
    bare.folder.chmod(0o755)
    one_line_and_nothing_left(Done(done.returncode, done.stdout, done.stderr), bare, before, "cannot write to ")


GOOD = '[official]\n[tuna]\npypi = { layout = "pep503", url = "http://127.0.0.1:9/" }\n'
BROKEN = {
    GOOD: "error: mirrors.toml: no mirror named 'tuan'; there is auto, official, tuna (did you mean 'tuna'?)\n",
    GOOD.replace("url", "ulr"): (
        "error: mirrors.toml: tuna.pypi.ulr: no key named 'ulr'; there is files, layout, url (did you mean 'url'?)\n"
    ),
    "[tuna\n": "error: mirrors.toml: is not valid TOML: ",
}


@pytest.mark.parametrize("version", ["3.10", "3.11"])
@pytest.mark.parametrize("mirrors", BROKEN)
def test_a_wrong_mirror_or_file_is_one_line(version: str, mirrors: str, bare: Checkout) -> None:
    """On 3.10 this is read by the TOML reader inside pip: nothing is installed yet."""
    (bare.folder / "mirrors.toml").write_text(mirrors)
    before = tree(bare.folder)
    done = bare.run(python(version), "-S", "tasks.py", "up", "--mirror", "tuan", env=NO_BYTECODE)
    one_line_and_nothing_left(done, bare, before)
    assert done.stderr.startswith(BROKEN[mirrors])


def with_mirrors(bare: Checkout, **urls: str) -> None:
    """mirrors.toml with these; `official` is a closed port, as behind a firewall."""
    text = "[official]\n" + "".join(
        f'[{name}]\npypi = {{ layout = "pep503", url = "{url}" }}\n' for name, url in urls.items()
    )
    (bare.folder / "mirrors.toml").write_text(text)


FIREWALL = {
    "PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://127.0.0.1:9/simple/", "PIP_EXTRA_INDEX_URL": "",
    "PIP_FIND_LINKS": "", "PIP_NO_CACHE_DIR": "1", "PIP_DEFAULT_TIMEOUT": "2",
}  # fmt: skip


NUMBERS = re.compile(r"\d+ B|[\d.]+ [kM]B|[\d.]+ s\b")


def steps(done: Done) -> list[str]:
    """The first line of each step."""
    return [line for line in done.stderr.splitlines() if not line.startswith(" ")]


def own_store(folder: Path) -> dict[str, str]:
    """Nothing in it yet, and pip behind a firewall."""
    return {**FIREWALL, "JINGXIANG_STORE": str(folder)}


def wanted(bare: Checkout, version: str = "3.11") -> list[LockedPackage]:
    """What the toolkit needs on that Python."""
    packages, target = locks.read(bare.folder / "envs/locks/toolkit.txt").packages, resolve.target(version)
    return [package for package in packages if target.wants(package)]


def test_the_mirror_asked_for_gives_every_package(bare: Checkout, local: index.Index, tmp_path: Path) -> None:
    with_mirrors(bare, mine=local.url)
    env = own_store(tmp_path / "store")
    done = bare.run(python("3.11"), "tasks.py", "lock", "--check", "--mirror", "mine", env=env)
    assert done.code == 0, done.stderr
    count = len(wanted(bare))
    assert [NUMBERS.sub("N", line) for line in steps(done)][:5] == [
        "toolkit  making .venv with Python 3.11",
        "mirrors  pypi mine, official",
        f"plan     {count} of {count} files to fetch (how long {count} of them are is not listed)",
        f"fetch    N in N   mine N ({count} files) · every hash checked",
        f"toolkit  {count} packages installed, every hash checked",
    ]
    asked = local.log.read_text()
    assert [each.name for each in wanted(bare) if f"/simple/{each.name}/" not in asked] == []
    # another checkout on the same machine needs no mirror any more
    shutil.rmtree(bare.folder / ".venv")
    before = local.log.read_text()
    done = bare.run(python("3.11"), "tasks.py", "lock", "--check", "--mirror", "mine", env=env)
    assert done.stderr.splitlines()[:3] == [
        "toolkit  making .venv with Python 3.11",
        f"fetch    all {count} files are in the store",
        f"toolkit  {count} packages installed, every hash checked",
    ]
    assert local.log.read_text() == before


def test_auto_measures_and_a_failing_mirror_is_passed_over(bare: Checkout, local: index.Index, tmp_path: Path) -> None:
    with index.bad(403) as blocked, index.bad(200) as page:
        with_mirrors(bare, blocked=blocked, page=page, mine=local.url)
        done = bare.run(python("3.11"), "tasks.py", "--list", env=own_store(tmp_path / "auto"))
        assert done.code == 0, done.stderr
        lines = steps(done)
        assert (lines[1], len(lines)) == ("mirrors  pypi mine, blocked, page, official", 5)
        assert lines[-1] == f"toolkit  {len(wanted(bare))} packages installed, every hash checked"
        # asked for by name, the bad one is tried first, said, and passed over
        shutil.rmtree(bare.folder / ".venv")
        env = own_store(tmp_path / "named")
        done = bare.run(python("3.11"), "tasks.py", "lock", "--check", "--mirror", "blocked", env=env)
        assert done.code == 0, done.stderr
        assert "\nmirrors  pypi blocked, page, mine, official\n" in done.stderr
        assert "\n         blocked: 403: blocked by its firewall (" in done.stderr


def test_a_corrupt_file_is_never_installed(bare: Checkout, wheels: Path, tmp_path: Path) -> None:
    spoilt = tmp_path / "spoilt"
    shutil.copytree(wheels, spoilt)
    for wheel in spoilt.glob("invoke-*.whl"):
        data = bytearray(wheel.read_bytes())
        data[len(data) // 2] ^= 0xFF
        wheel.write_bytes(bytes(data))
    with index.serving(spoilt, tmp_path / "spoilt.log") as served:
        with_mirrors(bare, spoilt=served.url)
        before = tree(bare.folder)
        env = {**own_store(tmp_path / "store"), **NO_BYTECODE}
        done = bare.run(python("3.11"), "tasks.py", "--list", "--mirror", "spoilt", env=env)
    assert done.code == 1
    version = next(
        each.version for each in locks.read(bare.folder / "envs/locks/toolkit.txt").packages if each.name == "invoke"
    )
    assert done.stderr.splitlines()[2:] == [
        f"error: invoke {version} could not be had from any of 2 mirrors",
        "       spoilt   checksum differs in its index",
        "       official no answer (Connection refused)",
        "       what was fetched is kept",
        "try:   python3 tasks.py mirrors --probe",
        "try:   the same command with --mirror NAME",
    ]
    assert tree(bare.folder) == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_it_leaves_nothing_half_made(number: int, code: int, bare: Checkout, tmp_path: Path) -> None:
    with index.bad(0) as silent:
        with_mirrors(bare, silent=silent)
        argv = [str(python("3.11")), "-B", "tasks.py", "--list", "--mirror", "silent"]
        env = bare.environment(own_store(tmp_path / "store"))
        process = subprocess.Popen(argv, cwd=bare.folder, env=env, stderr=subprocess.PIPE, text=True)
        try:
            wait_for(lambda: (bare.folder / ".venv/bin/pip").exists())
            time.sleep(2)  # by now it waits for the index
            process.send_signal(number)
            start = time.monotonic()
            _, stderr = process.communicate(timeout=60)
            took_s = time.monotonic() - start
        finally:
            process.kill()
    assert process.returncode == code
    assert took_s < 2  # whatever the mirrors do
    assert "Traceback" not in stderr
    assert not (bare.folder / ".venv").exists()


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_killed_it_is_made_again_from_the_start(bare: Checkout) -> None:
    argv = [str(python("3.11")), "tasks.py", "--list"]
    process = subprocess.Popen(argv, cwd=bare.folder, env=bare.environment(), stderr=subprocess.DEVNULL)
    wait_for(lambda: (bare.folder / ".venv/bin/python").exists())
    process.kill()
    process.wait()
    done = bare.run(*argv)
    assert (done.code, "making .venv" in done.stderr) == (0, True), done.stderr


@pytest.mark.parametrize("where", ["toolkit", "tests"])
def test_listing_tasks_imports_nothing_heavy(where: str) -> None:
    """In the toolkit's Python, and in that of the tests, where all of it is installed."""
    code = (
        "import sys; sys.argv = ['x']; import tasks\n"
        "heavy = {'torch', 'gradio', 'docker.client', 'huggingface_hub', 'paramiko', 'uv', 'psutil', 'requests'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    python = checkout.ROOT / ".venv" / "bin" / "python" if where == "toolkit" else Path(sys.executable)
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, cwd=checkout.ROOT, check=True)
    assert done.stdout == "[]\n"
