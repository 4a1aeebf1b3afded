"""jingxiang.process"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from jingxiang import process
from jingxiang.process import Finished, ProcessFailed

ROOT = Path(__file__).resolve().parent.parent


def python(code: str) -> list[str | Path]:
    return [Path(sys.executable), "-c", code]


def test_what_a_program_printed_and_its_code_are_kept() -> None:
    code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
    assert process.run(python(code)) == Finished(3, "out\n", "err\n")


def test_a_signal_is_a_negative_code() -> None:
    assert process.run(python("import os; os.kill(os.getpid(), 9)")) == Finished(-9, "", "")


def test_a_program_gets_its_environment_and_its_folder(tmp_path: Path) -> None:
    env = {**os.environ, "GREETING": "你好"}
    done = process.run(["sh", "-c", 'printf "%s %s" "$GREETING" "$PWD"'], env=env, cwd=tmp_path)
    assert done == Finished(0, f"你好 {tmp_path}", "")


def test_a_program_cannot_wait_for_what_somebody_types() -> None:
    code = "from jingxiang import process; print(process.run(['cat']))"
    argv = [sys.executable, "-c", code]
    child = subprocess.run(argv, cwd=ROOT, input="typed", capture_output=True, text=True, check=True)
    assert child.stdout == "Finished(code=0, stdout='', stderr='')\n"


def test_arguments_are_never_read_by_a_shell() -> None:
    assert process.run(["printf", "%s", "$HOME; echo x"]) == Finished(0, "$HOME; echo x", "")


def test_bytes_that_are_no_text_do_no_harm() -> None:
    assert process.run(["printf", r"a\377b"]) == Finished(0, "a\ufffdb", "")


def test_a_program_that_is_not_there_counts_as_127() -> None:
    assert process.run(["no-such-program"]) == Finished(127, "", "no-such-program: No such file or directory")


def test_a_program_that_may_not_run_counts_as_127(tmp_path: Path) -> None:
    (tmp_path / "program").write_text("#!/bin/sh\n")
    path = tmp_path / "program"
    assert process.run([path]) == Finished(127, "", f"{path}: Permission denied")


def test_a_program_that_takes_too_long_counts_as_124_and_is_ended() -> None:
    start = time.monotonic()
    done = process.run(["sh", "-c", "sleep 30"], timeout_s=0.2)
    assert done == Finished(124, "", "sh: no answer within 0.2 s")
    assert time.monotonic() - start < 5


def test_the_tail_is_the_end_of_what_was_said() -> None:
    lines = [f"line {number}" for number in range(20)]
    assert Finished(1, "out", "\n".join(lines) + "\n\n").tail == "\n".join(lines[5:])
    assert Finished(1, "out\n", "  \n").tail == "out"
    assert Finished(1, "", "").tail == ""


def test_what_is_shown_goes_to_our_stderr_alone(capfd: pytest.CaptureFixture[str]) -> None:
    code = "import sys; print('out', flush=True); print('err', file=sys.stderr)"
    assert process.run(python(code), show=True) == Finished(0, "", "")
    assert capfd.readouterr() == ("", "out\nerr\n")


def test_a_program_that_must_succeed_gives_what_it_printed() -> None:
    assert process.check(["echo", "fine"], name="echo") == Finished(0, "fine\n", "")


def test_a_failure_is_said_with_the_code_and_the_tail() -> None:
    with pytest.raises(ProcessFailed) as caught:
        process.check(["sh", "-c", "echo out; echo bad >&2; exit 7"], name="uv venv")
    assert caught.value.message == "uv venv ended with exit code 7\nbad"
    assert (caught.value.finished, caught.value.exit_code) == (Finished(7, "out\n", "bad\n"), 1)


def test_a_failure_without_a_word_is_one_line() -> None:
    with pytest.raises(ProcessFailed) as caught:
        process.check(["false"], name="false")
    assert caught.value.message == "false ended with exit code 1"


@pytest.mark.parametrize(("given", "greeting"), [({"GREETING": "hello"}, "hello"), (None, "inherited")])
def test_a_program_that_replaces_us_has_our_pid_and_gives_our_exit_code(
    given: dict[str, str] | None, greeting: str
) -> None:
    becomes = "import os, sys; print(os.getpid(), os.environ['GREETING']); sys.exit(9)"
    code = (
        "import json, os, sys; from pathlib import Path; from jingxiang import process\n"
        "print(os.getpid(), flush=True)\n"
        f"process.replace([Path(sys.executable), '-c', {becomes!r}], json.loads(sys.argv[1]))\n"
    )
    argv, env = [sys.executable, "-c", code, json.dumps(given)], {**os.environ, "GREETING": "inherited"}
    child = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    before, after, said = child.stdout.split()
    assert (child.returncode, child.stderr, after, said) == (9, "", before, greeting)


def test_a_replacement_gets_no_more_than_the_environment_that_it_is_given() -> None:
    code = (
        "import sys; from jingxiang import process\n"
        "show = 'import json, os; print(json.dumps(sorted(os.environ.keys() - {\"LC_CTYPE\"})))'\n"
        "process.replace([sys.executable, '-c', show], {'ONLY': '1'})\n"
    )
    child = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(child.stdout) == ["ONLY"]


def test_a_program_beside_us_is_ended_with_the_block(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    code = f"import os, time; open({str(ready)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    with process.beside(
        python(code), until=lambda: ready.exists() and ready.read_text() != "", timeout_s=20
    ) as problem:
        assert problem == ""
        number = int(ready.read_text())
        os.kill(number, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)


def test_why_a_program_beside_us_does_not_work_is_said() -> None:
    never = partial(bool, False)
    code = "import sys; print('first', file=sys.stderr); sys.exit('no such host')"
    for argv, words in (
        (python(code), "first\nno such host"),
        (["sh", "-c", "exit 3"], "sh: 3"),
        (["no-such-program"], "no-such-program: No such file or directory"),
    ):
        with process.beside(argv, until=never, timeout_s=20) as problem:
            assert problem == words
    with process.beside(["sleep", "30"], until=never, timeout_s=0.2) as problem:
        assert problem == "sleep: no answer within 0.2 s"


def test_lines_come_as_they_are_printed_and_the_program_ends_when_nobody_listens() -> None:
    program = "import sys, time\nprint(sys.stdin.read(), flush=True)\nprint('two', flush=True)\ntime.sleep(60)"
    found = process.lines([sys.executable, "-c", program], name="talker", given="one")
    assert [next(found), next(found)] == ["one", "two"]
    found.close()  # type: ignore[attr-defined]


UNDOES = """\
import os, signal, sys, time
class Asked(BaseException): pass
def stop(*_): raise Asked
signal.signal(signal.SIGTERM, stop)
print("begun", os.getsid(0) == os.getsid(os.getppid()), flush=True)
try:
    os.kill(os.getppid(), signal.SIGINT)
    time.sleep(60)
except Asked:
    print("undone", flush=True)
    if "twice" in sys.argv:
        os.kill(os.getppid(), signal.SIGINT)
        time.sleep(60)
"""


@pytest.mark.parametrize("words", [(), ("twice",)])
def test_a_program_that_is_interrupted_says_its_last_words_and_is_killed_the_second_time(
    words: tuple[str, ...],
) -> None:
    """The signal comes while we wait for its lines."""
    found = process.lines([sys.executable, "-c", UNDOES, *words], name="talker", given="")
    seen: list[str] = []
    start = time.monotonic()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts with & ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            seen.extend(found)
    finally:
        signal.signal(signal.SIGINT, before)
    assert words or seen == ["begun False", "undone"]  # the second signal may come before the first line
    assert time.monotonic() - start < 30


def test_lines_of_a_program_that_fails_end_with_its_words() -> None:
    program = "import sys; print('one'); sys.exit('no luck')"
    found = process.lines([sys.executable, "-c", program], name="talker", given="")
    assert next(found) == "one"
    with pytest.raises(ProcessFailed, match="talker ended with exit code 1\nno luck"):
        next(found)
