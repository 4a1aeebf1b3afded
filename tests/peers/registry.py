"""A registry over the files of a `Mirror`: an index of images, manifests, blobs, and a token server if wanted."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler

from jingxiang.base_images import INDEXES, MANIFESTS
from tests.peers import faults
from tests.peers.mirror import Mirror

TOKEN = "for-anybody"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
CONFIG = "application/vnd.oci.image.config.v1+json"


def digest(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def descriptor(body: bytes, media_type: str) -> dict[str, object]:
    return {"mediaType": media_type, "digest": digest(body), "size": len(body)}


def add(mirror: Mirror, repository: str, tag: str, *layers: bytes, token: bool = False) -> dict[str, bytes]:
    """An image of two platforms; returns the files of ours by digest, the manifest last. `token`: only with one."""
    rootfs = {"type": "layers", "diff_ids": [digest(_unpacked(layer)) for layer in layers]}
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs}).encode()
    listed = [descriptor(layer, LAYER) for layer in layers]
    value = {"schemaVersion": 2, "mediaType": MANIFESTS[0], "config": descriptor(config, CONFIG), "layers": listed}
    manifest, other = json.dumps(value).encode(), json.dumps({**value, "layers": []}).encode()
    machines = {"arm64": other, "amd64": manifest}
    entries = [
        {**descriptor(body, MANIFESTS[0]), "platform": {"os": "linux", "architecture": machine}}
        for machine, body in machines.items()
    ]
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEXES[0], "manifests": entries}).encode()
    root = f"/v2/{repository}"
    served = {f"{root}/manifests/{digest(body)}": body for body in (manifest, other, index)}
    served |= {f"{root}/blobs/{digest(body)}": body for body in (config, *layers)}
    served[f"{root}/manifests/{tag}"] = index
    mirror.files |= served
    if token:
        mirror.files["/token?service=tests&scope=pull"] = json.dumps({"token": TOKEN}).encode()
        mirror.answers |= {path: _guarded(mirror) for path in served}
    return {digest(body): body for body in (config, *layers, manifest)}


def _unpacked(layer: bytes) -> bytes:
    """The tar of a layer; many tests have layers that are none."""
    return gzip.decompress(layer) if layer.startswith(b"\x1f\x8b") else layer


def _guarded(mirror: Mirror) -> Callable[[BaseHTTPRequestHandler], None]:
    challenge = f'Bearer realm="{mirror.url}/token",service="tests",scope="pull"'

    def answer(request: BaseHTTPRequestHandler) -> None:
        if request.headers.get("Authorization") == f"Bearer {TOKEN}":
            mirror.send(request, mirror.files[request.path])
        else:
            faults.status(401, {"WWW-Authenticate": challenge})(mirror, request)

    return answer
