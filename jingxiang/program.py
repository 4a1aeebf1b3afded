"""The command line: invoke's, with one-line errors, `did you mean` and our exit codes."""

from __future__ import annotations

import difflib
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import invoke.program
import invoke.tasks
from invoke.collection import Collection
from invoke.exceptions import Exit, ParseError, UnexpectedExit

from jingxiang import __version__, console
from jingxiang.errors import JingxiangError, UnknownName, UsageError
from jingxiang.language import tr

VALUED = ("--mirror", "--model", "--lang", "--timeout", "--to")  # flags that are followed by a value
# Tasks whose words, from which one on, are values of a flag: invoke knows no list of words, nor one that may be absent.
FLAGS = {"fetch": (0, "--model"), "deploy-rollback": (1, "--to")}
INTERRUPTED = 128 + signal.SIGINT
ENDINGS = ("SIGTERM", "SIGHUP")  # a polite kill; a terminal that was closed, or a lost login


def after_dashes() -> list[str]:
    """The words of the command line after `--`, as they were given: invoke joins them with blanks."""
    return sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else []


def with_flags(words: Sequence[str]) -> list[str]:
    """The words that follow one of these tasks as values of its flag."""
    place = next((at for at, word in enumerate(words) if at and word[:1] != "-" and words[at - 1] not in VALUED), 0)
    if not (words and words[place] in FLAGS):
        return list(words)
    start, (kept, flag) = place + 1, FLAGS[words[place]]
    found = list(words[:start])
    for before, word in zip(words[start - 1 :], words[start:], strict=False):
        is_plain = not word.startswith("-") and before not in VALUED
        found += [flag, word] if is_plain and kept <= 0 else [word]
        kept -= is_plain
    return found


def task(**options: Any) -> Callable[[Callable[..., None]], Any]:
    """invoke's `task` without guessed short flags: those would change meaning when a parameter is added."""

    def decorate(body: Callable[..., None]) -> Any:
        help_ = {name: tr(text) for name, text in options.pop("help", {}).items()}
        body.__doc__ = tr(body.__doc__ or "")
        return invoke.tasks.task(auto_shortflags=False, help=help_, **options)(body)

    return decorate


def ends_as_interrupted() -> None:
    """Who is ended undoes what is half done and gives back what it holds, as at Ctrl-C. Once: the next ones change
    nothing, because shells and terminals send several."""

    def end(number: int, frame: object) -> None:
        for each in numbers:
            signal.signal(each, lambda *_: None)  # not SIG_IGN, which the programs that we start would inherit
        if number != signal.SIGTERM:
            for output in terminals:  # it is gone: writing to it would be another error
                os.dup2(os.open(os.devnull, os.O_WRONLY), output)
        raise SystemExit(128 + number)

    terminals = [output for output in (1, 2) if os.isatty(output)]
    numbers = [getattr(signal, name) for name in ENDINGS if hasattr(signal, name)]
    for number in numbers:
        if signal.getsignal(number) == signal.SIG_DFL:  # `nohup` has it ignored
            signal.signal(number, end)


class Program(invoke.program.Program):
    """Runs the tasks of one module."""

    @classmethod
    def of(cls, module: str) -> Program:
        collection = Collection.from_module(sys.modules[module], auto_dash_names=True)
        return cls(version=__version__, namespace=collection, name="jingxiang", binary="python3 tasks.py")

    def main(self) -> NoReturn:
        """Run and exit: 0 done, 1 failed, 2 wrong use, 130 interrupted, 143 ended."""
        ends_as_interrupted()
        try:
            self._steps()
        except Exit as end:
            if end.message:
                sys.stderr.write(f"{end.message}\n")
            sys.exit(end.code)
        except ParseError as error:
            self._end(self._explained(error))
        except JingxiangError as error:
            self._end(error)
        except UnexpectedExit as error:
            sys.exit(error.result.exited)
        except BrokenPipeError:  # `tasks.py --list | head`
            sys.stderr.close()
            sys.exit(0)
        except OSError as error:  # a disk that is full, a folder of somebody else
            if error.filename is None:
                raise
            self._end(JingxiangError(f"{error.filename}: {error.strerror}"))
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        sys.exit(0)

    def _steps(self) -> None:
        """invoke's own `run`, without its error handling, which ends in other exit codes than ours."""
        self.create_config()
        self.parse_core(with_flags(sys.argv))
        self.parse_collection()
        try:
            self.parse_tasks()
        except ValueError as error:  # invoke converts a flag's value to its default's type with int()
            value = str(error).rpartition(":")[2].strip()
            raise UsageError(tr("a whole number was expected, not {value}", value=value)) from error
        self.parse_cleanup()
        self.update_config()
        self.execute()

    def _explained(self, error: ParseError) -> JingxiangError:
        """invoke's parse error with the nearest task or flag."""
        unknown = re.match(r"No idea what '(.+)' is!", str(error))
        if not unknown:
            return UsageError(str(error))
        word = unknown[1]
        if word.startswith("-"):
            context = error.context
            flags = [flag for flag in context.flags if flag.startswith("--")] if context else []
            where = context.name or "" if context else ""
            near = difflib.get_close_matches(word.partition("=")[0], flags, n=1)
            text = tr("no flag '{name}'", name=word) + (tr(" (did you mean '{near}'?)", near=near[0]) if near else "")
            return UsageError(
                f"{where}: {text}" if where else text, hints=(f"python3 tasks.py --help {where}".strip(),)
            )
        return UnknownName("task", word, [name.replace("_", "-") for name in self.collection.task_names])

    def _end(self, error: JingxiangError) -> NoReturn:
        console.fail(error)
        sys.exit(error.exit_code)
