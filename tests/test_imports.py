"""Who may import whom"""

from __future__ import annotations

import ast
import functools
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# A module imports only from its own layer or a lower one; from its own only where that is in WITHIN.
LAYERS = {
    "jingxiang": 0,
    "jingxiang.compiled": 0,
    "jingxiang.console": 0,
    "jingxiang.digest": 0,
    "jingxiang.errors": 0,
    "jingxiang.file_lock": 0,
    "jingxiang.findings": 0,
    "jingxiang.folder_lock": 0,
    "jingxiang.language": 0,
    "jingxiang.passwords": 0,
    "jingxiang.ports": 0,
    "jingxiang.presets": 0,
    "jingxiang.redaction": 0,
    "jingxiang.tables": 0,
    "jingxiang.vendored": 0,
    "jingxiang.weights": 0,
    "jingxiang.base_images": 1,
    "jingxiang.gpu": 1,
    "jingxiang.image_definition": 1,
    "jingxiang.locks": 1,
    "jingxiang.mirrors": 1,
    "jingxiang.models": 1,
    "jingxiang.places": 1,
    "jingxiang.targets": 1,
    "jingxiang.conda_locks": 2,
    "jingxiang.container_plan": 2,
    "jingxiang.deploy_plan": 2,
    "jingxiang.env_plan": 2,
    "jingxiang.host_check": 2,
    "jingxiang.host_facts": 2,
    "jingxiang.images": 2,
    "jingxiang.manifests": 2,
    "jingxiang.profiles": 2,
    "jingxiang.proxy_plan": 2,
    "jingxiang.sky_task": 2,
    "jingxiang.fetch.artifacts": 2,
    "jingxiang.fetch.faults": 2,
    "jingxiang.fetch.ranges": 2,
    "jingxiang.fetch.*": 3,
    "jingxiang.bytecode": 3,
    "jingxiang.conda_packages": 3,
    "jingxiang.disk": 3,
    "jingxiang.engines.*": 3,
    "jingxiang.environments": 3,
    "jingxiang.hubs.*": 3,
    "jingxiang.image_contents": 3,
    "jingxiang.layers": 3,
    "jingxiang.pip_client": 3,
    "jingxiang.inventory": 3,
    "jingxiang.materials": 3,
    "jingxiang.ordering": 3,
    "jingxiang.process": 3,
    "jingxiang.progress": 3,
    "jingxiang.ranking": 3,
    "jingxiang.remotes.*": 3,
    "jingxiang.remotes.kubernetes_client.*": 3,
    "jingxiang.samples": 3,
    "jingxiang.simple_index": 3,
    "jingxiang.sinks.*": 3,
    "jingxiang.storage": 3,
    "jingxiang.store": 3,
    "jingxiang.uv_client": 3,
    "jingxiang.views": 3,
    "jingxiang.wheels": 3,
    "jingxiang.bootstrap": 4,
    "jingxiang.commands.*": 4,
    "jingxiang.program": 4,
    "tasks": 5,
}
WITHIN = {0, 2, 3, 4}
APP_MAY = 1  # the highest layer of the toolkit that the app may import
STARTS_PROGRAMS = {"jingxiang.process", "jingxiang.bootstrap"}
SDKS = {"docker", "huggingface_hub", "gradio", "torch", "paramiko", "psutil", "pynvml", "uv"}
# Parsed by any Python that a user may have, to say which one is needed.
OLD_SYNTAX = ("tasks", "jingxiang", "jingxiang.bootstrap", "jingxiang.errors", "jingxiang.language")


@dataclass(frozen=True)
class Import:
    """One import: of which module, and whether it happens as soon as the importer is imported."""

    module: str
    at_once: bool


def sources(root: Path) -> dict[str, Path]:
    """Every module of the toolkit and the app by its dotted name."""
    files = [root / "tasks.py", *(root / "jingxiang").rglob("*.py"), *(root / "app").rglob("*.py")]
    return {".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def for_types(node: ast.AST) -> bool:
    """Whether it is the part of a module that only type checkers read."""
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


@functools.cache
def statements(source: str) -> tuple[tuple[ast.Import | ast.ImportFrom, bool], ...]:
    """The import statements, each with whether it is outside of any function."""

    def visit(node: ast.AST, *, at_once: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node, at_once
        at_once = at_once and not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not for_types(node)
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.stmt, ast.ExceptHandler, ast.match_case)):
                yield from visit(child, at_once=at_once)

    return tuple(visit(ast.parse(source), at_once=True))


def imports(module: str, modules: dict[str, Path]) -> Iterator[Import]:
    """What a module imports; `from package import name` is of package.name where that is a module."""
    file = modules[module]
    package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    for node, at_once in statements(file.read_text(encoding="utf-8")):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, at_once) for alias in node.names)
            continue
        parents = package[: len(package) + 1 - node.level] if node.level else []
        base = ".".join([*parents, *([node.module] if node.module else [])])
        for alias in node.names:
            full = f"{base}.{alias.name}"
            yield Import(full if full in modules else base, at_once)


def layer(module: str) -> int | None:
    """A package's own layer is that of what is in it."""
    for name in (module, f"{module.rpartition('.')[0]}.*", f"{module}.*"):
        if name in LAYERS:
            return LAYERS[name]
    return None


def of_app(module: str) -> bool:
    return module.partition(".")[0] == "app"


def of_toolkit(module: str) -> bool:
    return module.partition(".")[0] == "jingxiang"


def upward(root: Path) -> list[str]:
    """Modules without a layer, and imports against the direction of the layers."""
    modules = sources(root)
    wrong = [f"{module} is in no layer" for module in sorted(modules) if not of_app(module) and layer(module) is None]
    for module in sorted(modules):
        own = layer(module)
        for each in imports(module, modules):
            target = layer(each.module)
            if of_app(each.module):
                fine = of_app(module)
            elif not of_toolkit(each.module) and each.module != "tasks":
                fine = True
            elif target is None:
                fine = False
            elif of_app(module):
                fine = target <= APP_MAY
            else:
                fine = own is not None and (target < own or (target == own and own in WITHIN))
            if not fine:
                wrong.append(f"{module} imports {each.module}")
    return wrong


def starting_programs(root: Path) -> set[str]:
    """The modules that can start another program by themselves."""
    modules = sources(root)
    return {
        module
        for module in modules
        if any(each.module == "subprocess" for each in imports(module, modules)) and not of_app(module)
    }


def beyond_the_standard_library(root: Path) -> list[str]:
    """What the bootstrap, and whatever it can reach, imports that a bare Python does not have."""
    modules = sources(root)
    wrong, reached, waiting = [], {"jingxiang.bootstrap"}, ["jingxiang.bootstrap"]
    while waiting:
        module = waiting.pop()
        for each in imports(module, modules):
            if each.module in modules:
                waiting += {each.module} - reached
                reached.add(each.module)
            elif each.module.partition(".")[0] not in sys.stdlib_module_names:
                wrong.append(f"{module} imports {each.module}")
    return sorted(wrong)


def heavy_at_once(root: Path) -> list[str]:
    """SDKs that are imported although nobody has asked for what needs them."""
    modules = sources(root)
    return [
        f"{module} imports {each.module}"
        for module in sorted(modules)
        if not of_app(module)
        for each in imports(module, modules)
        if each.at_once and each.module.partition(".")[0] in SDKS
    ]


def too_new(root: Path) -> list[str]:
    """The modules that Python 3.6 cannot parse."""
    modules, wrong = sources(root), []
    for module in OLD_SYNTAX:
        source = modules[module].read_text(encoding="utf-8")
        try:
            ast.parse(source, feature_version=(3, 6))
        except SyntaxError:
            wrong.append(module)
        if "from __future__ import annotations" in source:  # 3.7
            wrong.append(module)
    return wrong


def test_imports_lead_downwards() -> None:
    assert upward(ROOT) == []


def test_no_layer_is_kept_for_a_module_that_has_gone() -> None:
    modules = sources(ROOT)
    names = {name for name in LAYERS if name.removesuffix(".*") not in modules}
    assert names == set()


def test_other_programs_are_started_in_one_place_and_by_the_bootstrap() -> None:
    assert starting_programs(ROOT) == STARTS_PROGRAMS


def test_the_bootstrap_needs_only_a_bare_python() -> None:
    assert beyond_the_standard_library(ROOT) == []


def test_no_sdk_is_imported_before_it_is_needed() -> None:
    assert heavy_at_once(ROOT) == []


def test_an_old_python_can_read_what_tells_it_that_it_is_too_old() -> None:
    assert too_new(ROOT) == []


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The code, to plant something in."""
    for name in ("jingxiang", "app"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "tasks.py", tmp_path)
    return tmp_path


def plant(root: Path, module: str, line: str) -> None:
    file = sources(root).get(module, root / f"{module.replace('.', '/')}.py")
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    file.write_text(f"{text}\n{line}\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("module", "line", "found"),
    [
        ("jingxiang.tables", "from jingxiang import mirrors", "jingxiang.tables imports jingxiang.mirrors"),
        ("jingxiang.tables", "from . import mirrors", "jingxiang.tables imports jingxiang.mirrors"),
        ("jingxiang.tables", "from .mirrors import AUTO", "jingxiang.tables imports jingxiang.mirrors"),
        ("jingxiang.mirrors", "import jingxiang.locks", "jingxiang.mirrors imports jingxiang.locks"),
        (
            "jingxiang.engines.venv",
            "def f():\n    from ..commands.setup import setup",
            "jingxiang.engines.venv imports jingxiang.commands.setup",
        ),
        ("jingxiang.commands.up", "import tasks", "jingxiang.commands.up imports tasks"),
        ("jingxiang.commands.up", "from app import worker", "jingxiang.commands.up imports app.worker"),
        ("app.worker", "from jingxiang.process import run", "app.worker imports jingxiang.process"),
        ("app.worker", "from jingxiang import gone", None),
        ("jingxiang.newcomer", "", "jingxiang.newcomer is in no layer"),
        ("jingxiang.commands.newcomer", "from jingxiang.commands.setup import setup", None),
    ],
)
def test_an_import_against_the_direction_is_caught(copy: Path, module: str, line: str, found: str | None) -> None:
    plant(copy, module, line)
    assert upward(copy) == ([found] if found else [])


@pytest.mark.parametrize("line", ["import subprocess", "def f():\n    from subprocess import run"])
def test_another_place_that_starts_programs_is_caught(copy: Path, line: str) -> None:
    plant(copy, "jingxiang.gpu", line)
    assert starting_programs(copy) == STARTS_PROGRAMS | {"jingxiang.gpu"}


@pytest.mark.parametrize(
    ("module", "line", "found"),
    [
        ("jingxiang.bootstrap", "def f():\n    import invoke.config", "jingxiang.bootstrap imports invoke.config"),
        ("jingxiang.digest", "def f():\n    import tomli", "jingxiang.digest imports tomli"),
        ("jingxiang.samples", "from jingxiang import ports", "jingxiang.ports imports psutil"),
        ("jingxiang.pip_client", "from jingxiang.uv_client import binary", "jingxiang.uv_client imports uv"),
    ],
)
def test_what_a_bare_python_does_not_have_is_caught(copy: Path, module: str, line: str, found: str) -> None:
    plant(copy, module, line)
    assert beyond_the_standard_library(copy) == [found]


def test_an_sdk_at_the_top_of_a_module_is_caught(copy: Path) -> None:
    plant(copy, "jingxiang.sinks.docker_engine", "try:\n    import docker.errors\nexcept ImportError:\n    pass")
    plant(copy, "tasks", "class A:\n    import torch")
    assert heavy_at_once(copy) == ["jingxiang.sinks.docker_engine imports docker.errors", "tasks imports torch"]


@pytest.mark.parametrize("line", ["(x := 1)", "def f(a, /): ...", "from __future__ import annotations"])
def test_newer_syntax_is_caught(copy: Path, line: str) -> None:
    file = sources(copy)["jingxiang.errors"]
    file.write_text(f"{line}\n" + file.read_text(encoding="utf-8"), encoding="utf-8")
    assert too_new(copy) == ["jingxiang.errors"]
