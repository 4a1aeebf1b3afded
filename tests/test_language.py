"""jingxiang.language, and the Chinese texts of the toolkit and the app"""

from __future__ import annotations

import ast
import json
import string
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from app.page import words
from jingxiang import findings, language, tables
from jingxiang.commands import store

ROOT = Path(__file__).resolve().parent.parent
# What is translated by the function that it is handed to.
VERBS = ("line", "_say")
NAMES = ("Finding", "UnknownName")


def modules(*parts: str) -> list[ast.Module]:
    files = [
        file for part in parts for file in ([ROOT / part] if part.endswith(".py") else (ROOT / part).rglob("*.py"))
    ]
    return [ast.parse(file.read_text(encoding="utf-8")) for file in sorted(files)]


def calls(tree: ast.AST, *names: str) -> Iterator[ast.Call]:
    """Calls with arguments of a function of that name, wherever it comes from."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args:
            called = node.func
            name = (
                called.id if isinstance(called, ast.Name) else called.attr if isinstance(called, ast.Attribute) else ""
            )
            if name in names:
                yield node


def first_texts(trees: list[ast.Module], *names: str) -> set[str]:
    """The literal first arguments of such calls; an empty text needs no translation."""
    first = [call.args[0] for tree in trees for call in calls(tree, *names)]
    return {node.value for node in first if isinstance(node, ast.Constant) and isinstance(node.value, str)} - {""}


def constants(tree: ast.Module) -> dict[str, object]:
    """The module's own literal constants."""
    found: dict[str, object] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                continue
    return found


def task_texts(tree: ast.Module) -> set[str]:
    """What `invoke --list` and `--help` show: each task's docstring and the help of its flags."""
    named = constants(tree)
    assigned = (each for each in tree.body if isinstance(each, ast.Assign))
    shared = {name.id: each.value for each in assigned for name in each.targets if isinstance(name, ast.Name)}
    texts = set()
    for body in ast.walk(tree):
        if not isinstance(body, ast.FunctionDef):
            continue
        for decorator in body.decorator_list:
            assert isinstance(decorator, ast.Call)
            texts.add(ast.get_docstring(body, clean=False) or "")
            helps = next((keyword.value for keyword in decorator.keywords if keyword.arg == "help"), ast.Dict([], []))
            texts |= set(help_texts(helps, named, shared))
    return texts


def help_texts(helps: ast.expr, named: Mapping[str, object], shared: Mapping[str, ast.expr]) -> Iterator[str]:
    """The values of a dictionary of help, which may be a shared one, or begin with it."""
    if isinstance(helps, ast.Name):
        helps = shared[helps.id]
    assert isinstance(helps, ast.Dict)
    for key, value in zip(helps.keys, helps.values, strict=True):
        if key is None:
            yield from help_texts(value, named, shared)
        else:
            yield str(named[value.id] if isinstance(value, ast.Name) else ast.literal_eval(value))


def toolkit_texts() -> set[str]:
    trees = modules("jingxiang", "tasks.py")
    states = {findings.OK, findings.NOTE, findings.PROBLEM}
    texts = first_texts(trees, "tr", *VERBS, *NAMES) | task_texts(modules("tasks.py")[0])
    kinds = {store.OTHER, *(kind.title for kind in store.KINDS)}
    return texts | first_texts(modules("app"), *VERBS) | set(tables.NAMES.values()) | states | kinds


def app_texts() -> set[str]:
    return first_texts(modules("app"), "tr", "i18n") | words.written()


def pairs(package: str) -> list[tuple[str, str]]:
    """The entries of a catalog as they stand in the file."""
    text = (ROOT / package / "zh.json").read_text(encoding="utf-8")
    found: list[tuple[str, str]] = json.loads(text, object_pairs_hook=list)
    return found


def fields(template: str) -> list[str]:
    return sorted(name for _, name, _, _ in string.Formatter().parse(template) if name is not None)


def test_every_text_of_the_toolkit_has_a_chinese_one_and_no_other_is_kept() -> None:
    assert sorted(key for key, _ in pairs("jingxiang")) == sorted(toolkit_texts())


def test_every_text_of_the_app_has_a_chinese_one_and_no_other_is_kept() -> None:
    assert sorted(key for key, _ in pairs("app")) == sorted(app_texts())


@pytest.mark.parametrize("package", ["jingxiang", "app"])
def test_every_chinese_text_fills_in_the_same_fields(package: str) -> None:
    assert {key: fields(chinese) for key, chinese in pairs(package)} == {key: fields(key) for key, _ in pairs(package)}


@pytest.mark.parametrize("package", ["jingxiang", "app"])
def test_every_entry_says_something(package: str) -> None:
    assert [key for key, chinese in pairs(package) if not chinese.strip()] == []


@pytest.mark.parametrize("package", ["jingxiang", "app"])
def test_a_catalog_is_sorted_and_has_each_text_once(package: str) -> None:
    keys = [key for key, _ in pairs(package)]
    assert keys == sorted(set(keys))


@pytest.mark.parametrize("parts", [("jingxiang", "tasks.py"), ("app",)])
def test_a_text_is_looked_up_as_it_is_written_and_gets_the_fields_that_it_names(parts: tuple[str, ...]) -> None:
    """A text put together before it is looked up has no entry; one with another field fails when it is shown."""
    wrong = []
    for tree in modules(*parts):
        for call in calls(tree, "tr"):
            text, given = call.args[0], sorted(str(each.arg) for each in call.keywords if each.arg != "language")
            built = isinstance(text, (ast.JoinedStr, ast.BinOp)) or ".format(" in ast.unparse(text)
            literal = isinstance(text, ast.Constant)
            if built or (literal and given and given != sorted(set(fields(ast.literal_eval(text))))):
                wrong.append(ast.unparse(call))
    assert wrong == []


@pytest.fixture
def neutral(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("JINGXIANG_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("environment", "language_"),
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({"LC_ALL": "C.UTF-8", "LANG": "zh_CN.UTF-8"}, "en"),
        ({"LC_ALL": "zh_TW.UTF-8", "LANG": "en_US.UTF-8"}, "zh"),
        ({"LC_ALL": "", "LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LC_MESSAGES": "zh_CN.UTF-8", "LANG": "en_US.UTF-8"}, "zh"),
        ({"LC_ALL": "en_US.UTF-8", "LC_MESSAGES": "zh_CN.UTF-8"}, "en"),
        ({"JINGXIANG_LANG": "en", "LC_ALL": "zh_CN.UTF-8", "LANG": "zh_CN.UTF-8"}, "en"),
        ({"JINGXIANG_LANG": "zh", "LC_ALL": "en_US.UTF-8"}, "zh"),
        ({"JINGXIANG_LANG": "fr", "LANG": "zh_CN.UTF-8"}, "zh"),
    ],
)
def test_the_choice_comes_before_the_locale(
    neutral: pytest.MonkeyPatch, environment: dict[str, str], language_: str
) -> None:
    for name, value in environment.items():
        neutral.setenv(name, value)
    assert language.chosen() == language_


def catalog(folder: Path) -> Path:
    (folder / "zh.json").write_text('{"{count} files": "{count} 个文件", "file": "文件"}', encoding="utf-8")
    return folder


def test_a_text_comes_in_the_users_language_with_its_fields(neutral: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tr = language.translator(catalog(tmp_path))
    assert (tr("{count} files", count=3), tr("file")) == ("3 files", "file")
    neutral.setenv("LANG", "zh_CN.UTF-8")
    assert (tr("{count} files", count=3), tr("file")) == ("3 个文件", "文件")


def test_a_language_may_be_asked_for(neutral: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tr = language.translator(catalog(tmp_path))
    assert tr("file", "zh") == "文件"
    neutral.setenv("JINGXIANG_LANG", "zh")
    assert tr("file", "en") == "file"


def test_a_text_without_an_entry_stays_english(neutral: pytest.MonkeyPatch, tmp_path: Path) -> None:
    neutral.setenv("JINGXIANG_LANG", "zh")
    assert language.translator(catalog(tmp_path))("{count} bytes", count=3) == "3 bytes"


def test_english_needs_no_catalog(neutral: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert language.translator(tmp_path / "absent")("file") == "file"


def test_braces_of_a_value_are_left_alone(neutral: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert language.translator(catalog(tmp_path))("{count} files", count="{x}") == "{x} files"
    assert language.translator(catalog(tmp_path))("{build} is not filled in") == "{build} is not filled in"
