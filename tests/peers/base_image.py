"""A small Debian with Python, made by mmdebstrap, as the base of images; and how it comes into a registry."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import subprocess
import urllib.parse
from pathlib import Path
from urllib.request import ProxyHandler, Request, build_opener

from jingxiang.base_images import MANIFESTS
from tests.peers import system

LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
CONFIG = "application/vnd.oci.image.config.v1+json"
EPOCH = "1700000000"
PACKAGES = (
    "python3,python3-venv,ca-certificates,libstdc++6"  # the last one is in debian:bookworm-slim because apt needs it
)
LEFT_OUT = ("doc", "locale", "man")


def tar(folder: Path) -> Path:
    """The root file system of Debian bookworm with Python 3.11: 150 MB, the same every time; made once in a folder."""
    system.require(shutil.which("mmdebstrap"), "no mmdebstrap: apt-get install mmdebstrap")
    made = folder / "base.tar"
    if not made.exists():
        part = folder / "base.part.tar"
        excluded = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in LEFT_OUT]
        argv = ["mmdebstrap", "--quiet", "--variant=essential", *excluded, f"--include={PACKAGES}", "bookworm",
                str(part)]  # fmt: skip
        done = subprocess.run(
            argv, env={"SOURCE_DATE_EPOCH": EPOCH, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        part.rename(made)
    return made


def push(registry: str, name: str, body: bytes, *, variables: tuple[str, ...] = ()) -> str:
    """Put an image of one layer into a registry, as NAME:TAG; returns its digest. `body`: the tar."""
    repository, _, tag = name.partition(":")
    layer = gzip.compress(body, compresslevel=1, mtime=0)
    config = json.dumps(
        {
            "architecture": "amd64", "os": "linux", "config": {"Env": list(variables), "Labels": {"of": "the base"}},
            "rootfs": {"type": "layers", "diff_ids": [_digest(body)]},
            "history": [{"created": "2023-11-14T22:13:20Z", "created_by": "mmdebstrap"}],
        }
    ).encode()  # fmt: skip
    for blob in (layer, config):
        _push_blob(registry, repository, blob)
    manifest = json.dumps(
        {
            "schemaVersion": 2, "mediaType": MANIFESTS[0], "config": _described(config, CONFIG),
            "layers": [_described(layer, LAYER)],
        }
    ).encode()  # fmt: skip
    _ask("PUT", f"http://{registry}/v2/{repository}/manifests/{tag}", manifest, MANIFESTS[0])
    return _digest(manifest)


def layers(registry: str, name: str) -> dict[str, int]:
    """The digests and sizes of the layers of an image of a registry."""
    repository, _, tag = name.partition(":")
    request = Request(f"http://{registry}/v2/{repository}/manifests/{tag}", headers={"Accept": MANIFESTS[0]})
    with build_opener(ProxyHandler({})).open(request, timeout=60) as response:
        manifest = json.loads(response.read())
    return {each["digest"]: each["size"] for each in manifest["layers"]}


def _push_blob(registry: str, repository: str, body: bytes) -> None:
    base = f"http://{registry}/v2/"
    location = urllib.parse.urljoin(base, _ask("POST", f"{base}{repository}/blobs/uploads/", b"")["location"])
    _ask("PUT", f"{location}{'&' if '?' in location else '?'}digest={_digest(body)}", body)


def _ask(method: str, url: str, body: bytes, kind: str = "application/octet-stream") -> dict[str, str]:
    request = Request(url, data=body, method=method, headers={"Content-Type": kind})
    with build_opener(ProxyHandler({})).open(request, timeout=60) as response:
        return {name.lower(): value for name, value in response.headers.items()}


def _digest(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def _described(body: bytes, media_type: str) -> dict[str, object]:
    return {"mediaType": media_type, "digest": _digest(body), "size": len(body)}
