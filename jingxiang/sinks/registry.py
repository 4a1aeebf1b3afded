"""A registry: images go straight there, without a docker engine.

https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from jingxiang import base_images, console, images
from jingxiang.base_images import Blob, Reference
from jingxiang.digest import canonical_json, sha256_bytes
from jingxiang.errors import UsageError
from jingxiang.fetch.client import Client
from jingxiang.fetch.faults import Fault, Kind
from jingxiang.fetch.flow import Flow
from jingxiang.fetch.sending import Answer
from jingxiang.images import Attachment, Bytes, Image, Layer
from jingxiang.language import tr
from jingxiang.sinks import base, registry_access
from jingxiang.sinks.base import OnSent, Room
from jingxiang.sinks.registry_access import Access, Credentials, RegistryError
from jingxiang.sinks.registry_notes import Notes
from jingxiang.sinks.registry_upload import Repository, Source, Upload

SCHEME = "registry://"
NOBODY = "0" * 64  # a digest that no blob has: whoever may ask for it may come in
LOOKING, SENDING = 4, 2  # connections
EMPTY = b"{}"  # `images.EMPTY`


class BadAddress(UsageError):
    """Not the address of a repository."""

    def __init__(self, text: str) -> None:
        super().__init__(
            tr("'{text}' is not the address of a repository, such as {example}", text=text,
               example=f"{SCHEME}127.0.0.1:5000/jingxiang/i2v:1")
        )  # fmt: skip


def reference(address: str, tag: str) -> Reference:
    """Of `[registry://]HOST[:PORT]/REPOSITORY[:TAG]`; that of `tag` (TAG or NAME:TAG) where it says none.

    Raises `BadAddress`.
    """
    host, _, rest = address.removeprefix(SCHEME).partition("/")
    repository, colon, named = rest.partition(":")
    found = Reference(host, repository, named if colon else tag.rpartition(":")[2])
    patterns = (base_images.REGISTRY, base_images.REPOSITORY, base_images.TAG)
    parts = (found.registry, found.repository, found.what)
    if not all(pattern.fullmatch(part) for pattern, part in zip(patterns, parts, strict=True)):
        raise BadAddress(address)
    return found


class Registry:
    """One tag of one repository. `note`: see `Notes`; `credentials`: see `Access`.

    Plain HTTP on this machine, TLS elsewhere. All methods raise `RegistryError`.
    """

    def __init__(
        self,
        client: Client,
        reference: Reference,
        note: Path,
        credentials: Callable[[str], Credentials] = registry_access.of_docker,
    ) -> None:
        self.reference = reference
        self._notes = Notes(note)
        self._access = Access(client, reference.registry, credentials)
        self._repository = Repository(self._access, reference.repository)

    @classmethod
    def of(cls, address: str, tag: str, *, client: Client, note: Path) -> Registry:
        """Of an address as people write it, see `reference`."""
        return cls(client, reference(address, tag), note)

    @property
    def name(self) -> str:
        return f"registry {self.reference.group}"

    @property
    def called(self) -> str:
        return str(self.reference)

    def check(self) -> None:
        self._repository.has(NOBODY)

    def held(self, layers: Sequence[Layer]) -> frozenset[str]:
        """Without what might be taken from another repository: only trying tells."""
        digests = sorted({layer.blob.sha256 for layer in layers})
        with ThreadPoolExecutor(LOOKING) as pool:
            found = pool.map(self._repository.has, digests)
            return frozenset(sha256 for sha256, there in zip(digests, found, strict=True) if there)

    def room(self, layers: Sequence[Layer], held: frozenset[str]) -> Room:
        return Room(sum(layer.blob.size for layer in base.missing(layers, held)))

    def has(self, image: Image) -> bool:
        answer = self._manifest("HEAD", self.reference.what)
        if answer.status == 404:
            return False
        if not answer.good:
            raise self._repository.problem(answer, tr("looking for the image"))
        named = answer.headers.get("Docker-Content-Digest")
        if named is None:  # it should say that, but need not
            named = f"sha256:{sha256_bytes(self._manifest('GET', self.reference.what).body)}"
        return named == image.digest

    def put(self, image: Image, held: frozenset[str], on_sent: OnSent) -> None:
        """The tag comes last: until then nobody sees anything of the image but its digests."""
        self._send(base.missing(image.layers, held), on_sent)
        self._keep(tr("configuration"), image.config)
        if image.attachments:  # their subject should be there first
            self._put_manifest(image.digest, image.manifest)
            self._attach(image)
        self._put_manifest(self.reference.what, image.manifest)
        self._note(image)

    def _send(self, missing: Sequence[Layer], on_sent: OnSent) -> None:
        """Several at a time, the largest first; when one fails, the others are ended."""
        flows = {layer.blob.sha256: Flow() for layer in missing}
        repository = Repository(self._access, self.reference.repository, threading.Event())

        def send(layer: Layer) -> None:
            source = Source(f"{layer.kind} {layer.title}".strip(), layer.blob.size, layer.content)
            if repository.stop.is_set():
                return
            origins, flow = self._origins(layer), flows[layer.blob.sha256]
            try:
                Upload(repository, source, layer.blob.sha256, origins=origins, on_sent=on_sent, flow=flow).run()
            except BaseException:
                repository.stop.set()  # before this thread takes the next layer
                raise

        with ThreadPoolExecutor(SENDING) as pool:
            sent = [pool.submit(send, layer) for layer in sorted(missing, key=lambda each: -each.blob.size)]
            try:
                for each in as_completed(sent):
                    each.result()
            finally:
                repository.stop.set()
                for flow in flows.values():
                    flow.cut(Fault(Kind.REFUSED, tr("ended")))

    def _origins(self, layer: Layer) -> list[str]:
        """Other repositories of the registry that may have a layer."""
        registry, _, repository = layer.origin.partition("/")
        noted = self._notes.repositories(self.reference.registry, layer.blob.sha256)
        found = [*noted, *([repository] if registry == self.reference.registry and repository else [])]
        return [each for each in dict.fromkeys(found) if each != self.reference.repository]

    def _keep(self, title: str, body: bytes) -> None:
        """A small blob."""
        sha256 = sha256_bytes(body)
        if not self._repository.has(sha256):
            Upload(self._repository, Source(title, len(body), Bytes(body)), sha256).run()

    def _attach(self, image: Image) -> None:
        """Documents about the image, as far as the registry takes them."""
        unlisted = []
        for each in image.attachments:
            try:
                self._keep(each.name, EMPTY)
                self._keep(each.name, each.body)
                manifest = images.referrer(image, each)
                answer = self._put_manifest(f"sha256:{sha256_bytes(manifest)}", manifest, title=each.name)
                if not answer.headers.get("OCI-Subject"):
                    unlisted.append(self._described(each, manifest))
            except RegistryError as error:
                self._warn(each.name, error)
        try:
            if unlisted:
                self._list(image, unlisted)
        except RegistryError as error:
            self._warn(", ".join(each.name for each in image.attachments), error)

    def _warn(self, name: str, error: RegistryError) -> None:
        console.warn(tr("{name} is not kept beside the image: {reason}", name=name, reason=error.message))

    def _list(self, image: Image, descriptors: Sequence[dict[str, Any]]) -> None:
        """For registries that do not list what is about an image: an index with a tag of its own does it.

        See the spec, "Referrers Tag Schema". What others have listed stays.
        """
        tag, title = image.digest.replace(":", "-"), tr("the list of documents about the image")
        answer = self._manifest("GET", tag, accept=images.INDEX)
        if not answer.good and answer.status != 404:
            raise self._repository.problem(answer, title)
        before = _entries(answer) if answer.good else {}
        after = {**{str(each["digest"]): each for each in descriptors}, **before}
        if after.keys() != before.keys():
            manifests = [after[digest] for digest in sorted(after)]
            index = {"schemaVersion": 2, "mediaType": images.INDEX, "manifests": manifests}
            self._put_manifest(tag, canonical_json(index), title=title, kind=images.INDEX)

    @staticmethod
    def _described(attachment: Attachment, manifest: bytes) -> dict[str, Any]:
        blob = Blob(sha256_bytes(manifest), images.MANIFEST, len(manifest))
        return {**blob.to_json(), "artifactType": attachment.media_type}

    def _manifest(self, method: str, what: str, accept: str = images.MANIFEST) -> Answer:
        path, scopes = self._repository.path("manifests", what), self._repository.scopes
        return self._access.ask(method, path, scopes, headers={"Accept": accept})

    def _put_manifest(self, what: str, body: bytes, *, title: str = "", kind: str = images.MANIFEST) -> Answer:
        path, scopes = self._repository.path("manifests", what), self._repository.scopes
        answer = self._access.ask("PUT", path, scopes, headers={"Content-Type": kind}, body=body)
        if not answer.good:
            raise self._repository.problem(answer, title or tr("the image's manifest"))
        return answer

    def _note(self, image: Image) -> None:
        try:
            digests = [layer.blob.sha256 for layer in image.layers]
            self._notes.add(self.reference.registry, self.reference.repository, digests)
        except OSError as error:  # the image is there, and that is what counts
            console.warn(tr("{path}: cannot be written: {reason}", path=self._notes.file, reason=error.strerror))


def _entries(answer: Answer) -> dict[str, dict[str, Any]]:
    """The entries of an index by digest; none of what is no index."""
    try:
        return {str(each["digest"]): each for each in json.loads(answer.body)["manifests"]}
    except (ValueError, KeyError, TypeError):
        return {}
