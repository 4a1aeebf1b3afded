"""The tasks of jingxiang. `python3 tasks.py TASK …` needs nothing but Python; `invoke TASK …` does the same.

Flags in, one call into `jingxiang.commands`, nothing else. This file must be parsed by Python 3.6 (see
`jingxiang.bootstrap`): no newer syntax here.
"""

from jingxiang import bootstrap

bootstrap.enter()  # returns only in the toolkit's own Python, where the imports below are installed

from typing import Optional, Sequence

from invoke.context import Context

from jingxiang.places import here
from jingxiang.program import Program, after_dashes, task

MIRROR = "mirror to ask first, or a bundle's address; others follow when it fails (default: auto, the fastest now)"
MODEL = "model, see app/models.toml (default: what this machine can run)"
PROFILE = "build of PyTorch: auto (what this machine can run), cpu, cuda12 or cuda13 (default: auto)"
ENGINE = "what brings Python: auto, mamba, rattler (conda packages) or venv (this machine's own) (default: auto)"
JSON = "print one JSON object on stdout"
TARGET = "ssh://[USER@]HOST[:PORT], ssh+env://…, k8s://CONTEXT/NAMESPACE, sky://INFRA or aliyun://REGION/TYPE"
BASE = "image below ours (default: as docker/image.toml says)"
REGISTRY = "HOST/NAME where the image goes on its way to the target"
PASSWORDS = "file of lines NAME:PASSWORD for those who may use the app; the first one is in charge"
TARGET_PROFILE = "build of PyTorch: auto (what the target can run), cpu, cuda12 or cuda13 (default: auto)"
TRANSFER = "ssh (only what the host lacks), registry, or auto (default: auto, the registry if there is one)"
PORT = "port of the page on the host (default: 7860; with --public: 443)"
PUBLIC = "let others reach the page, over TLS; needs --password-file"
DOMAIN = "name that leads to the host, with --public (default: the host's own, with a certificate made there)"
READY_S = "seconds that a new version may take to get ready (default: 600)"
BREAK_LOCK = "go on although somebody else deploys there, or was cut off while doing it"


@task(
    help={
        "mirror": MIRROR,
        "model": MODEL,
        "host": "address to listen on (default: 127.0.0.1, this machine only)",
        "port": "port to listen on; 0 picks a free one (default: 7860)",
        "public": "listen on all addresses; without a password file, a password is made and shown",
        "password-file": PASSWORDS,
        "open": "open the browser when ready",
        "profile": PROFILE,
    }
)
def up(
    _: Context,
    mirror: str = "auto",
    model: str = "",
    host: str = "127.0.0.1",
    port: int = 7860,
    public: bool = False,
    password_file: str = "",
    open: bool = False,
    profile: str = "auto",
) -> None:
    """Set up, make sure that the model is there, and serve the app."""
    from jingxiang.commands.up import Page, up

    asked = Page("0.0.0.0" if public else host, port, password_file, open)  # noqa: S104 (asked for)
    up(here(), mirror=mirror, model=model, profile=profile, page=asked)


@task(
    help={
        "image": "picture to start from",
        "out": "MP4 file to write",
        "prompt": "what should move and how, in English (svd-xt takes none)",
        "negative": "what should not be in the video, in English",
        "model": MODEL,
        "preset": "standard, fast, or for cards of that size 12gb, 24gb or 40gb (default: standard)",
        "seed": "whole number; the same seed gives the same video (default: random)",
        "mirror": MIRROR,
        "profile": PROFILE,
    }
)
def generate(
    _: Context,
    image: str,
    out: str,
    prompt: str = "",
    negative: str = "",
    model: str = "",
    preset: str = "standard",
    seed: str = "",
    mirror: str = "auto",
    profile: str = "auto",
) -> None:
    """Make one video from one picture, without the page."""
    from jingxiang.commands.generate import generate

    generate(
        here(),
        image=image,
        prompt=prompt,
        negative=negative,
        out=out,
        model=model,
        preset=preset,
        seed=seed,
        mirror=mirror,
        profile=profile,
    )


@task(help={"model": MODEL, "mirror": MIRROR, "profile": PROFILE, "json": JSON})
def calibrate(_: Context, model: str = "", mirror: str = "auto", profile: str = "auto", json: bool = False) -> None:
    """Measure what a model takes of this machine: memory and time."""
    from jingxiang.commands.calibrate import calibrate

    calibrate(here(), model=model, mirror=mirror, profile=profile, as_json=json)


@task(
    iterable=["preset"],
    help={
        "model": MODEL,
        "preset": "preset whose size is compiled for; may be repeated (default: standard and fast)",
        "mirror": MIRROR,
        "profile": PROFILE,
        "json": JSON,
    },
)
def warm(
    _: Context,
    model: str = "",
    preset: Optional[Sequence[str]] = None,
    mirror: str = "auto",
    profile: str = "auto",
    json: bool = False,
) -> None:
    """Compile a model for this machine's GPU, so that its first video is made at full speed."""
    from jingxiang.commands.warm import warm

    warm(here(), model=model, presets=preset or (), mirror=mirror, profile=profile, as_json=json)


@task(
    help={
        "mirror": MIRROR,
        "profile": PROFILE,
        "engine": ENGINE,
        "prefix": "folder to make it in, empty or an environment (default: .jingxiang/environments/NAME)",
        "dry_run": "only say what would be fetched and made",
        "fresh": "make it again from the wheels, even if it is in place",
        "json": JSON,
    }
)
def setup(
    _: Context,
    mirror: str = "auto",
    profile: str = "auto",
    engine: str = "auto",
    prefix: str = "",
    dry_run: bool = False,
    fresh: bool = False,
    json: bool = False,
) -> None:
    """Install the app's environment, exactly as locked."""
    from jingxiang.commands.setup import setup_app

    setup_app(
        here(), mirror=mirror, profile=profile, engine=engine, prefix=prefix, dry_run=dry_run, fresh=fresh, as_json=json
    )


@task(
    iterable=["model"],
    help={
        "model": "model, see app/models.toml; may be repeated (or: fetch MODEL ...)",
        "mirror": MIRROR,
        "all": "every model",
        "dry_run": "only say what would be fetched",
        "list": "show all models: size, licence, what is here",
        "accept_license": "say yes to a licence with conditions, which you have read",
        "json": JSON,
    },
)
def fetch(
    _: Context,
    model: Optional[Sequence[str]] = None,
    mirror: str = "auto",
    all: bool = False,
    dry_run: bool = False,
    list: bool = False,
    accept_license: bool = False,
    json: bool = False,
) -> None:
    """Fetch the weights of models, checked by their hashes."""
    from jingxiang.commands.fetch import fetch

    fetch(
        here(),
        names=model or (),
        mirror=mirror,
        every=all,
        dry_run=dry_run,
        accept=accept_license,
        listed=list,
        as_json=json,
    )


@task(
    iterable=["model"],
    help={
        "out": "folder to write",
        "profile": PROFILE,
        "engine": ENGINE,
        "model": "model whose weights are to be in it, too; may be repeated",
        "mirror": MIRROR,
    },
)
def bundle(
    _: Context,
    out: str,
    profile: str = "auto",
    engine: str = "auto",
    model: Optional[Sequence[str]] = None,
    mirror: str = "auto",
) -> None:
    """Write a folder that is itself a mirror, for machines without a network."""
    from jingxiang.commands.bundle import bundle

    bundle(here(), out=out, mirror=mirror, profile=profile, engine=engine, models=model or ())


@task(
    help={
        "prefix": "folder that an environment was made in (default: the app's own)",
        "model": "the weights of this model instead",
        "json": JSON,
    }
)
def verify(_: Context, prefix: str = "", model: str = "", json: bool = False) -> None:
    """Compare every file of the environment with its lock; list what was added, changed or is missing."""
    from jingxiang.commands import fetch
    from jingxiang.commands.verify import verify

    if model:
        fetch.verify(here(), model, as_json=json)
    else:
        verify(here(), prefix=prefix, as_json=json)


@task(
    iterable=["model"],
    help={
        "profile": PROFILE,
        "engine": ENGINE,
        "model": "model whose weights are to be in it, too; may be repeated",
    },
)
def sbom(_: Context, profile: str = "auto", engine: str = "auto", model: Optional[Sequence[str]] = None) -> None:
    """Print what the environment, models and base images are made of (CycloneDX JSON)."""
    from jingxiang.commands.sbom import sbom

    sbom(here(), profile=profile, engine=engine, names=model or ())


@task(
    iterable=["model"],
    help={
        "model": "model whose weights are to be in it; may be repeated; the first one is served (default: what this "
        "machine can run)",
        "profile": PROFILE,
        "engine": ENGINE,
        "base": BASE,
        "mirror": MIRROR,
        "tag": "NAME:TAG of the image (default: jingxiang/MODEL:DIGEST)",
        "to": "docker (the engine of this machine or DOCKER_HOST), registry://HOST/NAME, oci:FOLDER or rootfs:FOLDER "
        "(default: docker)",
        "plan": "only say what would be made and sent",
        "json": JSON,
    },
)
def build_image(
    _: Context,
    model: Optional[Sequence[str]] = None,
    profile: str = "auto",
    engine: str = "auto",
    base: str = "",
    mirror: str = "auto",
    tag: str = "",
    to: str = "docker",
    plan: bool = False,
    json: bool = False,
) -> None:
    """Bake environment, weights and app into an image, the same bytes everywhere; its digest goes to stdout."""
    from jingxiang.commands.build_image import build_image

    build_image(
        here(),
        names=model or (),
        profile=profile,
        engine=engine,
        base=base,
        mirror=mirror,
        tag=tag,
        to=to,
        plan=plan,
        as_json=json,
    )


ASKED = {  # of a deployment, and of a check before one
    "target": TARGET,
    "model": MODEL,
    "profile": TARGET_PROFILE,
    "transfer": TRANSFER,
    "registry": REGISTRY,
    "port": PORT,
    "public": PUBLIC,
    "domain": DOMAIN,
    "password-file": PASSWORDS,
    "json": JSON,
}


@task(
    positional=["target"],
    help={
        **ASKED,
        "engine": ENGINE,
        "base": BASE,
        "mirror": MIRROR,
        "plan": "only say what would be done",
        "strategy": "bluegreen (both versions at once, no gap), recreate (one after the other), or auto: by what the "
        "GPU has free (default: auto)",
        "timeout": READY_S,
        "break-lock": BREAK_LOCK,
        "yes": "do not ask before something that costs money",
    },
)
def deploy(
    _: Context,
    target: str,
    model: str = "",
    profile: str = "auto",
    engine: str = "auto",
    base: str = "",
    mirror: str = "auto",
    plan: bool = False,
    strategy: str = "auto",
    transfer: str = "auto",
    registry: str = "",
    port: int = 0,
    public: bool = False,
    domain: str = "",
    password_file: str = "",
    timeout: int = 600,
    break_lock: bool = False,
    yes: bool = False,
    json: bool = False,
) -> None:
    """Have a host, a cluster or a cloud serve the app; the address of the page goes to stdout."""
    from jingxiang.commands.deploy import Source, deploy, order

    asked = order(strategy, transfer, registry, port, public, domain, password_file, timeout, break_lock, yes)
    deploy(target, Source(here(), model, profile, engine, base, mirror), asked, plan=plan, as_json=json)


@task(positional=["target"], help=ASKED)
def deploy_check(
    _: Context,
    target: str,
    model: str = "",
    profile: str = "auto",
    transfer: str = "auto",
    registry: str = "",
    port: int = 0,
    public: bool = False,
    domain: str = "",
    password_file: str = "",
    json: bool = False,
) -> None:
    """Look at a target for everything that would be in the way of a deployment; nothing is changed."""
    from jingxiang.commands.deploy import Source, check, order

    asked = order(
        transfer=transfer, registry=registry, port=port, public=public, domain=domain, password_file=password_file
    )
    check(target, Source(here(), model, profile), asked, as_json=json)


@task(positional=["target"], help={"target": TARGET, "json": JSON})
def deploy_status(_: Context, target: str, json: bool = False) -> None:
    """Say what a target serves, and which versions it keeps."""
    from jingxiang.commands.deploy import status

    status(target, as_json=json)


@task(
    positional=["target"],
    help={
        "target": TARGET,
        "f": "go on as the log grows, until Ctrl-C",
        "failed": "of the last version that did not get ready",
    },
)
def deploy_logs(_: Context, target: str, f: bool = False, failed: bool = False) -> None:
    """Print the log of what a target serves."""
    from jingxiang.commands.deploy import logs

    logs(target, follows=f, failed=failed)


@task(
    positional=["target"],
    help={
        "target": TARGET,
        "to": "version, one of those that deploy-status lists (default: the one before)",
        "timeout": READY_S,
        "break-lock": BREAK_LOCK,
        "json": JSON,
    },
)
def deploy_rollback(
    _: Context, target: str, to: str = "", timeout: int = 600, break_lock: bool = False, json: bool = False
) -> None:
    """Serve a version again that the target has kept."""
    from jingxiang.commands.deploy import order, rollback

    rollback(target, order(timeout=timeout, break_lock=break_lock), version=to, as_json=json)


@task(
    positional=["target"],
    help={"target": TARGET, "volumes": "its pictures, videos and models, too", "break-lock": BREAK_LOCK},
)
def deploy_destroy(_: Context, target: str, volumes: bool = False, break_lock: bool = False) -> None:
    """Remove what was deployed; pictures, videos and models stay."""
    from jingxiang.commands.deploy import destroy, order

    destroy(target, order(break_lock=break_lock), volumes=volumes)


@task()
def run(_: Context) -> None:
    """Run a program in the environment: run -- python train.py"""
    from jingxiang.commands.run import run

    run(here(), words=after_dashes())


@task()
def shell(_: Context) -> None:
    """Open a shell in the environment, without start files."""
    from jingxiang.commands.run import shell

    shell(here())


@task(help={"json": JSON})
def doctor(_: Context, json: bool = False) -> None:
    """Look at this machine and say how to put right what is wrong."""
    from jingxiang.commands.doctor import doctor

    doctor(here(), as_json=json)


@task(
    help={
        "summary": "versions, GPU, disk, what was made, and the last errors with their causes, to be copied",
        "lines": "how many lines of the log (default: 50)",
        "json": JSON,
    }
)
def logs(_: Context, summary: bool = False, lines: int = 50, json: bool = False) -> None:
    """Show what the app has written down, or a summary of it."""
    from jingxiang.commands.logs import logs

    logs(here(), summary=summary, lines=lines, as_json=json)


@task(
    help={
        "probe": "fetch a real file from every mirror and check it; takes three seconds",
        "space": "only one space: pypi, torch, conda, hub, oci or apt",
        "json": JSON,
    }
)
def mirrors(_: Context, probe: bool = False, space: str = "", json: bool = False) -> None:
    """List the mirrors, and say which work now and how fast."""
    from jingxiang.commands.mirrors import show

    show(here(), probe=probe, space=space, as_json=json)


@task(
    iterable=["upgrade", "models", "base"],
    help={
        "mirror": MIRROR,
        "check": "only say whether the locks are fresh",
        "upgrade": "package to bring up to its newest version; may be repeated",
        "models": "only lock the weights of this model again, as the hub has them now; may be repeated",
        "base": "only lock this base image, such as debian:bookworm-slim; may be repeated",
    },
)
def lock(
    _: Context,
    mirror: str = "auto",
    check: bool = False,
    upgrade: Optional[Sequence[str]] = None,
    models: Optional[Sequence[str]] = None,
    base: Optional[Sequence[str]] = None,
) -> None:
    """Renew the locks in envs/locks from the specs in envs."""
    from jingxiang.commands import bases, model_locks
    from jingxiang.commands.lock import lock

    if models:
        model_locks.relock(here(), models, mirror=mirror)
    if base:
        bases.relock(here(), base, mirror=mirror)
    if not (models or base):
        lock(here(), mirror=mirror, check=check, upgrade=upgrade or ())


@task(
    help={
        "verify": "read every file again, and put those that are damaged into quarantine",
        "prune": "remove the files that no lock of this checkout names and no environment is linked to",
        "json": JSON,
    }
)
def store(_: Context, verify: bool = False, prune: bool = False, json: bool = False) -> None:
    """Show, check or clean the store: files under their SHA-256, shared by all checkouts."""
    from jingxiang.commands.store import store

    store(here(), verify=verify, prune=prune, as_json=json)


@task(help={"mirror": MIRROR, "match": "only tests whose name matches, as for pytest -k"})
def test(_: Context, mirror: str = "auto", match: str = "") -> None:
    """Run all tests; installs what they need first."""
    from jingxiang.commands.check import test

    test(here(), mirror=mirror, match=match)


@task(help={"mirror": MIRROR})
def check(_: Context, mirror: str = "auto") -> None:
    """Format, lint, types and the tests that take seconds: before every commit."""
    from jingxiang.commands.check import check

    check(here(), mirror=mirror)


@task(
    positional=["name"],
    iterable=["model"],
    help={
        "name": "which bench, see ci/bench",
        "model": "gpu, start --gpu and memory: only this model; may be repeated",
        "gpu": "start: of a model of full size on this machine's GPU",
        "workers": "gpu: how much all cards make, against one",
        "profile": "gpu: what the card is busy with in a step",
        "write": "gpu: write docs/benchmarks.md, too",
        "json": JSON,
    },
)
def bench(
    _: Context,
    name: str,
    model: Optional[Sequence[str]] = None,
    gpu: bool = False,
    workers: bool = False,
    profile: bool = False,
    write: bool = False,
    json: bool = False,
) -> None:
    """Measure, side by side with peers."""
    from jingxiang.commands.bench import bench

    flags = {"--gpu": gpu, "--workers": workers, "--profile": profile, "--write": write, "--json": json}
    models = [word for each in model or () for word in ("--model", each)]
    bench(here(), name=name, options=[*models, *(flag for flag, is_set in flags.items() if is_set)])


if __name__ == "__main__":
    Program.of(__name__).main()
