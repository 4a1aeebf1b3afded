"""`python -m app [serve|generate|make|worker]`. Imports nothing heavy until it is known what is to be done."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

from app.texts import tr
from jingxiang import console, models, places
from jingxiang.errors import JingxiangError, UsageError

HERE = Path(__file__).resolve().parent
INTERRUPTED = 130
# Before any library reads them: nothing is fetched while the app runs, and their own chatter stays out of the log.
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "GRADIO_ANALYTICS_ENABLED": "False",
}


def main() -> int:
    """Do what the arguments say; errors are one line, exit 2 for wrong use, 1 for failures, 130 for Ctrl-C."""
    os.environ.update(QUIET)
    arguments = _parser().parse_args()
    try:
        return int(arguments.action(arguments) or 0)
    except JingxiangError as error:
        console.fail(error)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED


def _serve(arguments: argparse.Namespace) -> None:
    from app.server import serve

    serve(
        _spec(arguments),
        arguments.models,
        arguments.outputs,
        host=arguments.host,
        port=arguments.port,
        open_browser=arguments.open,
    )


def _generate(arguments: argparse.Namespace) -> None:
    from app import generation, picture

    output: Path = arguments.out
    if output.suffix.lower() != ".mp4":
        raise UsageError(tr("{name}: the output must end in .mp4", name=output))
    try:
        tempfile.TemporaryFile(dir=output.parent).close()  # root may write anywhere, but not to every file system
    except OSError as error:
        raise UsageError(tr("{name}: cannot be written: {reason}", name=output, reason=error.strerror)) from error
    if output.is_dir():
        raise UsageError(tr("{name}: is a folder", name=output))
    spec = _spec(arguments)
    wanted = generation.order(
        spec,
        image=arguments.image,
        prompt=arguments.prompt,
        preset=arguments.preset,
        seed=arguments.seed,
        output=output,
    )
    picture.read(wanted.image)  # a bad picture is said now, not after ten seconds of loading
    _ensure(spec, arguments.models)
    from app.cli import generate

    generate(spec, arguments.models, wanted)


def _make(arguments: argparse.Namespace) -> None:
    _ensure(_spec(arguments), arguments.models)


def _worker(arguments: argparse.Namespace) -> int:
    from app import worker

    spec = _spec(arguments)
    return worker.main(spec, arguments.models / spec.name, lambda: _ensure(spec, arguments.models))


def _spec(arguments: argparse.Namespace) -> models.ModelSpec:
    return models.load(HERE / "models.toml").model(arguments.model)


def _ensure(spec: models.ModelSpec, folder: Path) -> None:
    """Make a model that the app makes by itself, if it is not there yet."""
    if spec.weights is None and not (folder / spec.name / "model_index.json").exists():
        from app import smoke

        smoke.make(folder / spec.name)
        console.line("model", tr("{title} made: {folder}", title=spec.title, folder=folder / spec.name))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        console.fail(UsageError(message))
        sys.exit(UsageError.exit_code)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m app")
    home = places.here()
    common = _Parser(add_help=False)
    common.add_argument("--model", default="smoke", help=tr("name in app/models.toml"))
    common.add_argument("--models", type=Path, default=home.models, help=tr("folder of the models"))
    actions = parser.add_subparsers(metavar="ACTION", parser_class=_Parser)

    serve = actions.add_parser("serve", parents=[common], help=tr("the web page (default)"))
    for each in (parser, serve):
        each.set_defaults(action=_serve)
        each.add_argument("--host", default="127.0.0.1")
        each.add_argument("--port", type=int, default=7860, help=tr("0 picks a free one"))
        each.add_argument("--outputs", type=Path, default=home.outputs, help=tr("folder of the videos"))
        each.add_argument("--open", action="store_true", help=tr("open the browser when ready"))
    parser.set_defaults(model="smoke", models=home.models)

    generate = actions.add_parser("generate", parents=[common], help=tr("one video, without the page"))
    generate.set_defaults(action=_generate)
    generate.add_argument("--image", type=Path, required=True)
    generate.add_argument("--prompt", required=True)
    generate.add_argument("--out", type=Path, required=True)
    generate.add_argument("--preset", default="standard")
    generate.add_argument("--seed", type=int)

    actions.add_parser("make", parents=[common], help=tr("make the smoke model")).set_defaults(action=_make)
    actions.add_parser("worker", parents=[common], help=tr("runs the model for the page")).set_defaults(action=_worker)
    return parser


if __name__ == "__main__":
    sys.exit(main())
