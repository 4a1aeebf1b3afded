"""`invoke bench start`: how soon the command line answers, the port, the page, and a whole bare machine.

Peers, in the same run: an empty tasks.py under invoke; a one-button gradio page as its documentation writes it; the
same locked packages installed by pip alone. Each small figure is the median of several runs, ours and the peer's in
turn, because machines drift. `--gpu`: something else, see `speed.timeline`.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from ci.bench.report import Figure, show
from tests.peers import checkout, system

ROOT = checkout.ROOT
RUNS = 5
PEER_PAGE = """
import sys, gradio as gr
with gr.Blocks() as page:
    gr.Button("go", elem_id="generate")
page.launch(server_name="127.0.0.1", server_port=int(sys.argv[1]), quiet=True)
"""


def main() -> int:
    if "--gpu" in sys.argv:
        from ci.bench.speed import timeline

        return timeline.main()
    notes: list[str] = []
    with tempfile.TemporaryDirectory(prefix="jingxiang-bench-") as scratch:
        folder = Path(scratch)
        figures = [listing(folder), *pages(folder, notes), *bare(folder, notes)]
    show("start", figures, notes)
    return 0


def cpu_seconds(argv: list[str | Path], cwd: Path) -> float:
    """User and system time of a program and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(argv, cwd=cwd, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def listing(folder: Path) -> Figure:
    """CPU seconds of `invoke --list`, and of the same with an empty task."""
    (folder / "tasks.py").write_text("from invoke import task\n\n@task\ndef nothing(c):\n    pass\n")
    argv: list[str | Path] = [ROOT / ".venv" / "bin" / "invoke", "--list"]
    ours, peer = [], []
    for _ in range(RUNS):
        ours.append(cpu_seconds(argv, ROOT))
        peer.append(cpu_seconds(argv, folder))
    direct = statistics.median(cpu_seconds([sys.executable, "tasks.py", "--list"], ROOT) for _ in range(RUNS))
    peers = {"invoke, one empty task": round(statistics.median(peer), 3), "python3 tasks.py --list": round(direct, 3)}
    return Figure("list_cpu_s", round(statistics.median(ours), 3), "s", 0.3, peers=peers)


@contextlib.contextmanager
def started(argv: list[str | Path], cwd: Path) -> Iterator[float]:
    """A server, and the moment at which its process was started; ended afterwards."""
    start = time.monotonic()
    process = subprocess.Popen(argv, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield start
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:  # gradio's own server has been seen to outlive a Ctrl-C
            process.kill()
            process.wait()


def seconds_until(start: float, answered: Callable[[], bool], limit_s: float = 120) -> float:
    while not answered():
        if time.monotonic() - start > limit_s:
            raise TimeoutError
        time.sleep(0.002)
    return time.monotonic() - start


def answers(url: str, status: int = 200) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:  # noqa: S310 (our own http address)
            return bool(response.status == status)
    except (urllib.error.URLError, ConnectionError):
        return False


def pages(folder: Path, notes: list[str]) -> list[Figure]:
    """From process start to the first answer, to a page that can be used, and to a loaded model."""
    from playwright.sync_api import sync_playwright  # not there on machines that only measure GPUs

    models = folder / "models"
    subprocess.run(
        [sys.executable, "-m", "app", "make", "--models", models], cwd=ROOT, check=True, stderr=subprocess.DEVNULL
    )
    (folder / "peer.py").write_text(PEER_PAGE)
    first: dict[str, list[float]] = {"ours": [], "gradio": []}
    usable: dict[str, list[float]] = {"ours": [], "gradio": []}
    ready: list[float] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=system.browser(), args=list(system.CHROMIUM))
        for _ in range(3):
            for name in ("ours", "gradio"):
                port = system.free_port()
                url = f"http://127.0.0.1:{port}"
                argv: list[str | Path] = [sys.executable, folder / "peer.py", str(port)]
                if name == "ours":
                    argv = [sys.executable, "-m", "app", "serve", "--port", str(port), "--models", models]
                    argv += ["--outputs", folder / "outputs"]
                with started(argv, ROOT) as start:
                    probe = f"{url}/healthz" if name == "ours" else url
                    first[name].append(seconds_until(start, lambda probe=probe: answers(probe)))  # type: ignore[misc]
                    page = browser.new_page()
                    page.goto(url)
                    page.wait_for_selector(
                        "#generate, #standard", timeout=60_000
                    )  # ours reloads itself until it is there
                    usable[name].append(time.monotonic() - start)
                    page.close()
                    if name == "ours":
                        ready.append(seconds_until(start, lambda url=url: answers(f"{url}/readyz")))  # type: ignore[misc]
        browser.close()
    notes.append(f"model loaded (/readyz 200) {statistics.median(ready):.1f} s after process start")
    median = {name: round(statistics.median(values), 2) for name, values in first.items()}
    page_median = {name: round(statistics.median(values), 2) for name, values in usable.items()}
    return [
        Figure("first_http_s", median["ours"], "s", 0.5, peers={"plain gradio page": median["gradio"]}),
        Figure("page_ready_s", page_median["ours"], "s", 8, peers={"plain gradio page": page_median["gradio"]}),
    ]


def bare(folder: Path, notes: list[str]) -> list[Figure]:
    """A fresh checkout to READY: with the download caches of this machine, and with none."""
    python = getattr(sys, "_base_executable", sys.executable)
    start = time.monotonic()
    with peer_installed(folder, python):
        pip_s = time.monotonic() - start
    warm_s = bare_ready(folder / "warm", python, {})
    received = bytes_received()
    cold = {
        "XDG_CACHE_HOME": str(folder / "cache"),
        "UV_CACHE_DIR": str(folder / "uv"),
        "PIP_CACHE_DIR": str(folder / "pip"),
    }
    cold_s = bare_ready(folder / "cold", python, cold)
    megabytes = (bytes_received() - received) / 1e6
    local = os.environ.get("PIP_FIND_LINKS")
    extra = "; PyTorch's wheel came from a local folder of pip's configuration" if local else ""
    notes.append(f"with empty caches {cold_s:.0f} s, {megabytes:.0f} MB received (whole machine){extra}")
    peers = {"pip install of the same lock, nothing else": round(pip_s, 1)}
    return [Figure("bare_ready_warm_s", round(warm_s, 1), "s", 120, peers=peers)]


def bare_ready(folder: Path, python: str, env: dict[str, str]) -> float:
    copied = checkout.copy(folder, env)
    start = time.monotonic()
    with subprocess.Popen(
        [python, "tasks.py", "up", "--port", "0"], cwd=folder, env=copied.environment(), stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.monotonic() - start
        process.send_signal(signal.SIGINT)
    assert line.startswith("READY "), line
    shutil.rmtree(folder)
    return seconds


@contextlib.contextmanager
def peer_installed(folder: Path, python: str) -> Iterator[None]:
    """What one does without us: a virtual environment, and pip with the hashes."""
    lock = ROOT / "envs" / "locks" / "cpu.txt"
    subprocess.run([python, "-m", "venv", folder / "peer"], check=True)
    pip: list[str | Path] = [
        folder / "peer" / "bin" / "python",
        "-m",
        "pip",
        "install",
        "-q",
        "--disable-pip-version-check",
    ]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([*pip, "--require-hashes", "-r", lock], check=True, env=env, stderr=subprocess.DEVNULL)
    yield
    shutil.rmtree(folder / "peer")


def bytes_received() -> int:
    """Of all network interfaces but the loopback one, since the machine started."""
    total = 0
    for line in Path("/proc/net/dev").read_text().splitlines()[2:]:
        name, _, counters = line.partition(":")
        if name.strip() != "lo":
            total += int(counters.split()[0])
    return total


if __name__ == "__main__":
    sys.exit(main())
