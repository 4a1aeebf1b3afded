"""`python -m app [serve|generate|warm|make|worker|health|verify|doctor|logs]`.

Imports nothing heavy until it is known what is to be done.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from app import defaults, garbage, readahead
from app.texts import tr
from jingxiang import console, models, places, ports
from jingxiang.compiled import SHAPE
from jingxiang.digest import sha256_bytes
from jingxiang.errors import JingxiangError, UsageError

if TYPE_CHECKING:
    from app.access import Access
    from app.artifacts import Shelf

PRODUCER = "jingxiang"  # where labels are wanted, and nobody has said who offers the service
EVERYWHERE = "0.0.0.0"  # noqa: S104 (asked for, and with a password)
HERE = Path(__file__).resolve().parent
INTERRUPTED = 130
WARMED = ("standard", "fast")  # unless others are named
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
    with garbage.put_off():
        from app import logs
        from app.crew import Recruit
        from app.server import Serving, serve

    defaults.compiling()  # what is wrong with it is said now, and not by each job
    outputs: Path = arguments.outputs
    try:
        outputs.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=outputs).close()
    except OSError as error:  # said now, and not to whoever has waited for the first video
        text = tr("{name}: cannot be written: {reason}", name=outputs, reason=error.strerror)
        hints = (f"docker run -v FOLDER:{outputs} --user $(id -u):$(id -g) …",) if _in_container() else ()
        raise UsageError(text, (*hints, "--outputs FOLDER")) from error
    host = EVERYWHERE if arguments.public else arguments.host
    if arguments.workers != "0":
        readahead.begin(arguments.models / arguments.model)
    catalog = models.load(HERE / "models.toml")
    jobs, media = _jobs(arguments), _media(arguments)
    recruit = Recruit(
        catalog.model(arguments.model).name, arguments.models.absolute(), jobs, media, _worker_options(arguments, host)
    )
    serving = Serving(
        catalog=catalog,
        recruit=recruit,
        has_workers=arguments.workers != "0",
        outputs=outputs,
        jobs=jobs,
        media=media,
        access=_access(arguments, host),
        host=host,
        port=arguments.port,
        open_browser=arguments.open,
        drain_s=arguments.drain,
        waiting=arguments.waiting,
        per_user=arguments.per_user,
        keep_days=arguments.keep_days,
        keep_gb=arguments.keep_gb,
    )
    logs.start(outputs, "server")
    with logs.recorded():
        serve(serving)


def _worker_options(arguments: argparse.Namespace, host: str) -> list[str]:
    """What workers of this machine are told besides."""
    is_labelled = arguments.label == "on" or (arguments.label == "auto" and not ports.is_loopback(host))
    producer = arguments.producer or (PRODUCER if is_labelled else "")
    return [
        "--idle-unload", f"{arguments.idle_unload:g}", "--batch", str(arguments.batch), "--dtype", arguments.dtype,
        "--outputs", str(arguments.outputs.absolute()),  # where its log goes
        "--artifacts", str(arguments.artifacts.absolute()),
        "--label", "on" if is_labelled else "off", *([] if arguments.metadata else ["--no-metadata"]),
        *(["--producer", producer] if producer else []),
    ]  # fmt: skip


def _access(arguments: argparse.Namespace, host: str) -> Access:
    """Who may use the app. What others can reach has a password, unless somebody says that it needs none."""
    from app.access import Access

    if arguments.password_file is not None:
        return Access.read(arguments.password_file)
    if ports.is_loopback(host):
        return Access({})
    if arguments.no_password and arguments.public:
        raise UsageError(tr("--public needs a password: leave out --no-password"))
    if arguments.no_password:
        console.warn(tr("there is no password: everybody who can reach the address can use the app"))
        return Access({})
    access = Access.made()
    ((name, password),) = access.passwords.items()
    console.line("login", tr("user {name}, password {password}", name=name, password=password))
    console.line("", tr("made for this run; your own: --password-file FILE, with lines NAME:PASSWORD"))
    return access


def _jobs(arguments: argparse.Namespace) -> str:
    """The address of the job store. Workers run in another folder: a file's path must not depend on it."""
    url = str(arguments.jobs or f"sqlite:///{arguments.outputs / 'jobs.sqlite3'}")
    scheme, _, file = url.partition(":///")
    return f"sqlite:///{Path(file).absolute()}" if scheme == "sqlite" and file else url


def _media(arguments: argparse.Namespace) -> str:
    """Where pictures and videos are, likewise."""
    place = str(arguments.media or arguments.outputs)
    return place if "://" in place else str(Path(place).absolute())


def _generate(arguments: argparse.Namespace) -> None:
    from app import generation, picture, video

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
    given = picture.given(arguments.image)
    shown = picture.decoded(given, arguments.image.name)  # a bad picture is said now, not after ten seconds of loading
    wanted = generation.order(
        spec,
        picture=sha256_bytes(given),
        prompt=arguments.prompt,
        preset=arguments.preset,
        seed=arguments.seed,
        negative=arguments.negative,
    )
    if (arguments.prompt or arguments.negative) and not wanted.prompt:
        console.line("prompt", tr("{title} takes none: it is ignored", title=spec.title))
    video.check(output)
    _ensure(spec, arguments.models)
    from app.cli import generate

    generate(spec, arguments.models, wanted, shown, output)


def _calibrate(arguments: argparse.Namespace) -> None:
    spec = _spec(arguments)
    _ensure(spec, arguments.models)
    from dataclasses import asdict

    from app.calibrate import calibrate
    from app.jobs.database import Database
    from app.jobs.store import JobStore
    from app.memory import Measurement

    store = JobStore(Database(_jobs(arguments)))

    def record(found: Measurement) -> None:
        store.measure(found.gpu, found.model, found.dtype, asdict(found))

    try:
        calibrate(spec, arguments.models, as_json=arguments.json, record=record)
    finally:
        store.close()


def _warm(arguments: argparse.Namespace) -> None:
    from app import generation, warming

    spec = _spec(arguments)
    dtype = warming.number(arguments.dtype)
    changes = {name: value for name in SHAPE if (value := getattr(arguments, name)) is not None}
    presets = [generation.settings(spec, name, changes) for name in arguments.preset or WARMED]
    warming.end_tidily()
    if arguments.child:
        warming.stand_back()
    _ensure(spec, arguments.models)
    warming.warm(
        spec, arguments.models / spec.name, presets, shelf=_shelf(arguments), dtype=dtype, as_json=arguments.json
    )


def _shelf(arguments: argparse.Namespace) -> Shelf:
    """What is compiled goes to the folder of that name; what an image was made with is beside it."""
    from app.artifacts import Shelf

    return Shelf(arguments.artifacts.absolute(), places.here().baked)


def _make(arguments: argparse.Namespace) -> None:
    _ensure(_spec(arguments), arguments.models)


def _worker(arguments: argparse.Namespace) -> int:
    defaults.compiling()
    readahead.begin(arguments.models / arguments.model)  # while everything else is imported
    with garbage.put_off():
        from app import crew, logs, worker

    _ensure(_spec(arguments), arguments.models)
    marks = worker.Marks(arguments.metadata, arguments.label == "on", arguments.producer)
    duty = worker.Duty(
        arguments.name or crew.own_name(),
        arguments.model,
        arguments.models,
        _shelf(arguments),
        idle_s=arguments.idle_unload,
        most=arguments.batch,
        marks=marks,
        dtype=arguments.dtype,
    )
    media = _media(arguments)
    logs.start(arguments.outputs, "worker")
    with logs.recorded():
        return worker.main(duty, _jobs(arguments), media, models.load(HERE / "models.toml"), is_child=arguments.child)


def _health(arguments: argparse.Namespace) -> None:
    from app import health

    health.check(defaults.probed(arguments.host), arguments.port)


def _verify(arguments: argparse.Namespace) -> None:
    from app.verify import verify

    verify(arguments.folder, as_json=arguments.json)


def _doctor(arguments: argparse.Namespace) -> None:
    from app.doctor import Asked, doctor

    artifacts = (arguments.artifacts, places.here().baked)
    doctor(Asked(arguments.model, arguments.models, arguments.outputs, artifacts), as_json=arguments.json)


def _logs(arguments: argparse.Namespace) -> None:
    from app import logs, summary

    if arguments.summary:
        summary.show(arguments.outputs, as_json=arguments.json)
    else:
        logs.show(arguments.outputs, count=arguments.lines, as_json=arguments.json)


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


def _count(text: str) -> int:
    """A whole number from 1 on; raises `ValueError`."""
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def _parser() -> argparse.ArgumentParser:
    """Raises `UsageError` if a default cannot be used."""
    home = places.here()
    model, outputs, address, stored, working, serving, report, stock, numbers = (
        _Parser(add_help=False) for _ in range(9)
    )
    model.add_argument("--model", default=defaults.model(), help=tr("name in app/models.toml"))
    model.add_argument("--models", type=Path, default=home.models, help=tr("folder of the models"))
    outputs.add_argument("--outputs", type=Path, default=home.outputs, help=tr("folder of the videos"))
    address.add_argument("--host", default=defaults.host(), help=tr("address to listen on"))
    address.add_argument("--port", type=int, default=defaults.port(), help=tr("0 picks a free one"))
    stored.add_argument(
        "--jobs", default=defaults.jobs(), metavar="URL",
        help=tr("the job store: sqlite:///FILE (default: in the folder of the videos) or postgresql://…"),
    )  # fmt: skip
    working.add_argument(
        "--media", default=defaults.media(), metavar="URL",
        help=tr("where pictures and videos are: a folder (default: that of the videos), s3://… or oss://…"),
    )  # fmt: skip
    working.add_argument(
        "--batch", type=_count, default=4, metavar="N", help=tr("make at most so many like videos at once")
    )
    working.add_argument(
        "--idle-unload", type=defaults.seconds, default=0.0, metavar="SECONDS",
        help=tr("free the memory after so long without a job (0: never)"),
    )  # fmt: skip
    numbers.add_argument(
        "--dtype", choices=("auto", "fp16", "bf16", "fp32"), default="auto",
        help=tr("numbers to compute with; auto: fp16 on a GPU, fp32 without"),
    )  # fmt: skip
    stock.add_argument(
        "--artifacts", type=Path, default=home.artifacts, metavar="FOLDER", help=tr("folder of what is compiled")
    )
    working.add_argument(
        "--no-metadata", dest="metadata", action="store_false", help=tr("do not write into videos how they were made")
    )
    working.add_argument(
        "--label", choices=("auto", "on", "off"), default="auto",
        help=tr("draw “AI生成 AI-generated” on videos (GB 45438-2025); auto: where others can reach the page"),
    )  # fmt: skip
    working.add_argument(
        "--producer", default=defaults.producer(), metavar="CODE",
        help=tr("name or code of whoever offers the service, for the field AIGC of videos (GB 45438-2025)"),
    )  # fmt: skip
    serving.add_argument("--open", action="store_true", help=tr("open the browser when ready"))
    serving.add_argument(
        "--drain", type=defaults.seconds, default=defaults.drain_s(), metavar="SECONDS",
        help=tr("how long a video that is being made may still take after SIGTERM"),
    )  # fmt: skip
    serving.add_argument("--workers", choices=("auto", "0"), default="auto", help=tr("0: they run elsewhere"))
    serving.add_argument("--waiting", type=_count, default=5, metavar="N", help=tr("how many jobs may wait"))
    serving.add_argument(
        "--per-user", type=_count, default=3, metavar="N", help=tr("how many jobs of one user may be under way")
    )
    serving.add_argument(
        "--keep-days", type=defaults.seconds, default=30.0, metavar="DAYS",
        help=tr("delete what is older, unless it is pinned (0: never)"),
    )  # fmt: skip
    serving.add_argument(
        "--keep-gb", type=defaults.seconds, default=20.0, metavar="GB",
        help=tr("delete the oldest when videos take more, unless they are pinned (0: never)"),
    )  # fmt: skip
    serving.add_argument("--public", action="store_true", help=tr("listen on all addresses; needs a password"))
    serving.add_argument(
        "--password-file", type=Path, default=defaults.password_file(), metavar="FILE",
        help=tr("lines NAME:PASSWORD; the first name is in charge"),
    )  # fmt: skip
    serving.add_argument(
        "--no-password", action="store_true", default=defaults.no_password(),
        help=tr("let everybody in who can reach the address"),
    )  # fmt: skip
    report.add_argument("--json", action="store_true", help=tr("one JSON object on stdout"))

    page = [model, outputs, address, stored, stock, working, numbers, serving]
    parser = _Parser(prog="python -m app", parents=page)
    parser.set_defaults(action=_serve)
    actions = parser.add_subparsers(metavar="ACTION", parser_class=_Parser)
    actions.add_parser("serve", parents=page, help=tr("the web page (default)")).set_defaults(action=_serve)

    generate = actions.add_parser("generate", parents=[model], help=tr("one video, without the page"))
    generate.set_defaults(action=_generate)
    generate.add_argument("--image", type=Path, required=True)
    generate.add_argument("--out", type=Path, required=True)
    generate.add_argument("--prompt", default="", help=tr("what should move and how, in English"))
    generate.add_argument("--negative", default="", help=tr("what should not be in the video, in English"))
    generate.add_argument("--preset", default="standard")
    generate.add_argument("--seed", type=int)

    calibrate = actions.add_parser(
        "calibrate", parents=[model, outputs, stored, report], help=tr("what the model takes of this machine")
    )
    calibrate.set_defaults(action=_calibrate)

    warm = actions.add_parser(
        "warm", parents=[model, stock, numbers, report], help=tr("compiles the model for this machine's GPU")
    )
    warm.set_defaults(action=_warm)
    warm.add_argument(
        "--preset", action="append", help=tr("whose size is compiled for; may be repeated (default: standard and fast)")
    )
    for name in SHAPE:
        warm.add_argument(f"--{name}", type=_count, help=tr("instead of the preset's"))
    warm.add_argument("--child", action="store_true", help=argparse.SUPPRESS)

    actions.add_parser("make", parents=[model], help=tr("make the smoke model")).set_defaults(action=_make)
    worker = actions.add_parser(
        "worker",
        parents=[model, outputs, stored, stock, working, numbers],
        help=tr("makes videos for a page, of this or another machine"),
    )
    worker.set_defaults(action=_worker)
    worker.add_argument("--name", default="", help=tr("what it is called"))
    worker.add_argument("--child", action="store_true", help=argparse.SUPPRESS)

    health = actions.add_parser("health", parents=[address], help=tr("ends with 0 if the page's server answers"))
    health.set_defaults(action=_health)
    verify = actions.add_parser("verify", parents=[report], help=tr("an image's files against the lists in it"))
    verify.set_defaults(action=_verify)
    verify.add_argument("--folder", type=Path, default=HERE.parent, help=tr("folder of the image (default: the app's)"))
    doctor = actions.add_parser(
        "doctor", parents=[model, outputs, stock, report], help=tr("what the app finds around it")
    )
    doctor.set_defaults(action=_doctor)
    logs = actions.add_parser("logs", parents=[outputs, report], help=tr("what the app has written down"))
    logs.set_defaults(action=_logs)
    logs.add_argument("--summary", action="store_true", help=tr("in short, with the causes of the last errors"))
    logs.add_argument("-n", dest="lines", type=_count, default=50, metavar="LINES", help=tr("how many lines"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
