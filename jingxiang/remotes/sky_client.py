"""Talk to SkyPilot. A program for a Python that has it; see `remotes.sdk`.

The JSON object on stdin has `action` (one of `ACTIONS`) and what that action takes. What SkyPilot prints goes to
stderr. Events are step, line, result and error.
"""

from __future__ import annotations

import contextlib
import datetime
import difflib
import io
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import requests
import sky
import sky.serve.client.sdk as serve
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from sky import catalog
from sky.serve import serve_utils
from sky.skylet import constants

from jingxiang.remotes import client
from jingxiang.remotes.client import Problem, say
from jingxiang.sky_task import NAME

POLL_S = 10.0
FAILED = ("FAILED", "FAILED_INITIAL_DELAY", "FAILED_PROBING", "FAILED_PROVISION", "CONTROLLER_FAILED")
CLOUDS = set(constants.ALL_CLOUDS) - {"kubernetes", "ssh"}
DAYS = 825  # the most that browsers take of a certificate


def check(*, task: Mapping[str, Any], gpu: str) -> None:
    """Whether SkyPilot takes the task, and whether it knows such a card there (`known`: None where its list of them
    cannot be had)."""
    parsed(task)
    cloud = task["resources"]["infra"].partition("/")[0].lower()
    clouds = cloud if cloud in CLOUDS else None  # clusters have cards by names out of all lists
    try:
        cards = catalog.list_accelerators(gpus_only=True, name_filter=None, clouds=clouds, require_price=False)
    except (requests.RequestException, OSError, ValueError) as error:
        say("result", known=None, text=str(error).splitlines()[0] if str(error) else type(error).__name__)
        return
    near = difflib.get_close_matches(gpu, cards, n=3, cutoff=0.4)
    say("result", known=gpu in cards, text=", ".join(near))


def deploy(*, task: Mapping[str, Any], timeout_s: int) -> None:
    """Start the service, or have a new version of it take over. Until that is ready the old one serves."""
    certify(Path(task["service"]["tls"]["keyfile"]).parent)
    made, before = parsed(task), found()
    if before:
        sky.get(serve.update(made, NAME, mode=serve_utils.UpdateMode.ROLLING))
    else:
        sky.get(serve.up(made, NAME))
    old = int(before["version"]) if before else 0
    end, said = time.monotonic() + timeout_s, ""
    serving: list[int] = []
    while time.monotonic() < end:
        now = found()
        serving = sorted(int(each) for each in (now or {}).get("active_versions") or ())
        replicas = [each for each in (now or {}).get("replica_info", ()) if int(each.get("version", 0)) > old]
        states = ", ".join(sorted(str(getattr(each["status"], "value", each["status"])) for each in replicas))
        if states != said:
            say("step", text=states)
            said = states
        if any(state in FAILED for state in states.split(", ")):
            break
        if now and replicas and set(states.split(", ")) == {"READY"}:
            say("result", **shown(now))
            return
        time.sleep(POLL_S)
    raise Problem("unhealthy", text=said, serving=serving, old=old)


def status() -> None:
    now = found()
    say("result", **(shown(now) if now else {"state": ""}))


def logs(*, follows: bool) -> None:
    """Of the first replica that there is: SkyPilot has one log for each."""
    now = found()
    replicas = sorted(int(each["replica_id"]) for each in (now or {}).get("replica_info", ()))
    if not replicas:
        raise Problem("absent")
    serve.tail_logs(NAME, serve_utils.ServiceComponent.REPLICA, replicas[0], follow=follows, output_stream=Lines())
    say("result")


def destroy() -> None:
    if found():
        sky.get(serve.down(NAME))
    say("result")


class Lines(io.TextIOBase):
    """What is written here becomes events."""

    def __init__(self) -> None:
        self._rest = ""

    def write(self, text: str) -> int:
        *whole, self._rest = (self._rest + text).split("\n")
        for line in whole:
            say("line", text=line)
        return len(text)


def parsed(task: Mapping[str, Any]) -> sky.Task:
    try:
        return sky.Task.from_yaml_config(dict(task))
    except (ValueError, sky.exceptions.InvalidSkyPilotConfigError) as error:
        raise Problem("invalid", text=" ".join(str(error).split())) from error


def found() -> dict[str, Any] | None:
    """Our service, as SkyPilot has it."""
    services = sky.get(serve.status([NAME]))
    return dict(services[0]) if services else None


def shown(service: Mapping[str, Any]) -> dict[str, Any]:
    replicas = service.get("replica_info", ())
    return {
        "state": str(getattr(service["status"], "value", service["status"])),
        "version": str(service.get("version", "")), "endpoint": service.get("endpoint") or "",
        "replicas": {
            str(each["replica_id"]): str(getattr(each["status"], "value", each["status"])) for each in replicas
        },
    }  # fmt: skip


def refusals() -> tuple[type[Exception], ...]:
    """SkyPilot's errors, which have no class in common, and those of what it uses."""
    known = vars(sky.exceptions).values()
    own = [each for each in known if isinstance(each, type) and issubclass(each, Exception)]
    return (*own, requests.RequestException, OSError, RuntimeError, ValueError)


def certify(folder: Path) -> None:
    """A key and a certificate signed with it, made once: the page has a password, and that must not travel in clear."""
    key_file, certificate_file = folder / "key.pem", folder / "certificate.pem"
    if key_file.exists() and certificate_file.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=DAYS)).sign(key, hashes.SHA256())
    )  # fmt: skip
    form, scheme = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    with contextlib.suppress(FileNotFoundError):
        key_file.unlink()
    with os.fdopen(os.open(key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(key.private_bytes(serialization.Encoding.PEM, form, scheme))
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


ACTIONS: dict[str, Callable[..., None]] = {
    "check": check, "deploy": deploy, "status": status, "logs": logs, "destroy": destroy,
}  # fmt: skip


@contextlib.contextmanager
def nothing(_: dict[str, Any]) -> Iterator[tuple[()]]:
    """SkyPilot finds by itself what it needs."""
    yield ()


def told(error: Exception) -> Problem | None:
    text = " ".join(str(error).split()) or type(error).__name__
    return Problem("refused", text=text) if isinstance(error, refusals()) else None


if __name__ == "__main__":
    client.main(ACTIONS, nothing, told)
