"""`python -m app [serve|generate|make|worker|health|verify|doctor]`.

Imports nothing heavy until it is known what is to be done.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

from app import defaults
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
    try:
        arguments = _parser().parse_args()
        return int(arguments.action(arguments) or 0)
    except JingxiangError as error:
        console.fail(error)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED


def _serve(arguments: argparse.Namespace) -> None:
    from app.server import serve

    outputs: Path = arguments.outputs
    try:
        outputs.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=outputs).close()
    except OSError as error:  # said now, and not to whoever has waited for the first video
        text = tr("{name}: cannot be written: {reason}", name=outputs, reason=error.strerror)
        hints = (f"docker run -v FOLDER:{outputs} --user $(id -u):$(id -g) …",) if _in_container() else ()
        raise UsageError(text, (*hints, "--outputs FOLDER")) from error
    serve(
        _spec(arguments),
        arguments.models,
        outputs,
        host=arguments.host,
        port=arguments.port,
        open_browser=arguments.open,
        drain_s=arguments.drain,
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
    if arguments.prompt and not wanted.prompt:
        console.line("prompt", tr("{title} takes none: it is ignored", title=spec.title))
    picture.read(wanted.image)  # a bad picture is said now, not after ten seconds of loading
    _ensure(spec, arguments.models)
    from app.cli import generate

    generate(spec, arguments.models, wanted)


def _calibrate(arguments: argparse.Namespace) -> None:
    spec = _spec(arguments)
    _ensure(spec, arguments.models)
    from app.calibrate import calibrate

    calibrate(spec, arguments.models, as_json=arguments.json, record=lambda measurement: None)  # nothing keeps them yet


def _make(arguments: argparse.Namespace) -> None:
    _ensure(_spec(arguments), arguments.models)


def _worker(arguments: argparse.Namespace) -> int:
    from app import worker

    spec = _spec(arguments)
    return worker.main(spec, arguments.models / spec.name, lambda: _ensure(spec, arguments.models))


def _health(arguments: argparse.Namespace) -> None:
    from app import health

    health.check(defaults.probed(arguments.host), arguments.port)


def _verify(arguments: argparse.Namespace) -> None:
    from app.verify import verify

    verify(arguments.folder, as_json=arguments.json)


def _doctor(arguments: argparse.Namespace) -> None:
    from app.doctor import Asked, doctor

    doctor(Asked(arguments.model, arguments.models, arguments.outputs), as_json=arguments.json)


def _in_container() -> bool:
    """Docker and podman leave these files in each of theirs."""
    return Path("/.dockerenv").exists() or Path("/run/.containerenv").exists()


def _spec(arguments: argparse.Namespace) -> models.ModelSpec:
    return models.load(HERE / "models.toml").model(arguments.model)


def _ensure(spec: models.ModelSpec, folder: Path) -> None:
    """Make a model that the app makes by itself, if it is not there yet."""
    if spec.weights is None and not (folder / spec.name / "model_index.json").exists():
        from app import smoke

        try:
            smoke.make(folder / spec.name)
        except OSError as error:
            text = tr("{name}: cannot be written: {reason}", name=folder, reason=error.strerror)
            raise JingxiangError(text) from error
        console.line("model", tr("{title} made: {folder}", title=spec.title, folder=folder / spec.name))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        console.fail(UsageError(message))
        sys.exit(UsageError.exit_code)


def _parser() -> argparse.ArgumentParser:
    """Raises `UsageError` if a default cannot be used."""
    home = places.here()
    model, outputs, address, serving, report = (_Parser(add_help=False) for _ in range(5))
    model.add_argument("--model", default=defaults.model(), help=tr("name in app/models.toml"))
    model.add_argument("--models", type=Path, default=home.models, help=tr("folder of the models"))
    outputs.add_argument("--outputs", type=Path, default=home.outputs, help=tr("folder of the videos"))
    address.add_argument("--host", default=defaults.host(), help=tr("address to listen on"))
    address.add_argument("--port", type=int, default=defaults.port(), help=tr("0 picks a free one"))
    serving.add_argument("--open", action="store_true", help=tr("open the browser when ready"))
    serving.add_argument(
        "--drain", type=defaults.seconds, default=defaults.drain_s(), metavar="SECONDS",
        help=tr("how long a video that is being made may still take after SIGTERM"),
    )  # fmt: skip
    report.add_argument("--json", action="store_true", help=tr("one JSON object on stdout"))

    page = [model, outputs, address, serving]
    parser = _Parser(prog="python -m app", parents=page)
    parser.set_defaults(action=_serve)
    actions = parser.add_subparsers(metavar="ACTION", parser_class=_Parser)
    actions.add_parser("serve", parents=page, help=tr("the web page (default)")).set_defaults(action=_serve)

    generate = actions.add_parser("generate", parents=[model], help=tr("one video, without the page"))
    generate.set_defaults(action=_generate)
    generate.add_argument("--image", type=Path, required=True)
    generate.add_argument("--out", type=Path, required=True)
    generate.add_argument("--prompt", default="", help=tr("what should move and how, in English"))
    generate.add_argument("--preset", default="standard")
    generate.add_argument("--seed", type=int)

    calibrate = actions.add_parser(
        "calibrate", parents=[model, report], help=tr("what the model takes of this machine")
    )
    calibrate.set_defaults(action=_calibrate)

    actions.add_parser("make", parents=[model], help=tr("make the smoke model")).set_defaults(action=_make)
    actions.add_parser("worker", parents=[model], help=tr("runs the model for the page")).set_defaults(action=_worker)

    health = actions.add_parser("health", parents=[address], help=tr("ends with 0 if the page's server answers"))
    health.set_defaults(action=_health)
    verify = actions.add_parser("verify", parents=[report], help=tr("an image's files against the lists in it"))
    verify.set_defaults(action=_verify)
    verify.add_argument("--folder", type=Path, default=HERE.parent, help=tr("folder of the image (default: the app's)"))
    doctor = actions.add_parser("doctor", parents=[model, outputs, report], help=tr("what the app finds around it"))
    doctor.set_defaults(action=_doctor)
    return parser


if __name__ == "__main__":
    sys.exit(main())
