"""What an image is put together from: everything fetched, made and digested, and the image that follows from it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from packaging import licenses

from jingxiang import (
    __version__,
    compiled,
    conda_locks,
    console,
    image_contents,
    images,
    models,
    uv_client,
    weights,
)
from jingxiang.base_images import BaseImage
from jingxiang.commands import bases, fetch, sbom, setup
from jingxiang.compiled import Artifact, Damaged
from jingxiang.environments import Environment
from jingxiang.errors import JingxiangError, UsageError
from jingxiang.image_contents import Piece
from jingxiang.image_definition import Definition
from jingxiang.images import APP, BASE, COMPILED, ENVIRONMENT, WEIGHTS, Attachment, Image, Layer
from jingxiang.language import tr
from jingxiang.layers import TIME_S, Digests, FileContent
from jingxiang.models import ModelSpec
from jingxiang.places import Places
from jingxiang.profiles import PROFILES
from jingxiang.store import Store

EMPTY = {"architecture": "amd64", "os": "linux"}  # the configuration of no image at all
OWN_LICENCE = "Apache-2.0"
BILL, BILL_TYPE = "sbom.cdx.json", "application/vnd.cyclonedx+json"


@dataclass(frozen=True)
class Recipe:
    """What an image is to be made of, as it was asked for. The first of `specs` is the model that it serves; without a
    `base` the image has no layers but ours."""

    definition: Definition
    specs: tuple[ModelSpec, ...]
    base: str
    profile: str
    engine: str
    mirror: str

    @property
    def sorted_specs(self) -> list[ModelSpec]:
        """In the order of their layers."""
        return sorted(self.specs, key=lambda each: each.name)


@dataclass(frozen=True)
class Part:
    """Layers that belong together. `layers` None: not known before they are made; `size_bytes` is then what is known
    of them, and `here_bytes` how much of that is in the store."""

    kind: str
    title: str
    layers: tuple[Layer, ...] | None
    size_bytes: int | None = None
    here_bytes: int = 0

    @property
    def bytes(self) -> int | None:
        return sum(layer.blob.size for layer in self.layers) if self.layers is not None else self.size_bytes


class BadEpoch(UsageError):
    """SOURCE_DATE_EPOCH is no time."""

    def __init__(self, text: str) -> None:
        super().__init__(tr("SOURCE_DATE_EPOCH={text}: should be seconds since 1970", text=text))


class BadBase(JingxiangError):
    """The configuration of a base image does not fit its layers."""

    def __init__(self, base: BaseImage) -> None:
        super().__init__(tr("{image}: its configuration does not fit its layers", image=base.reference))


def created() -> str:
    """What an image says of when it was made: SOURCE_DATE_EPOCH (https://reproducible-builds.org/specs/), else the
    time of its files. Raises `BadEpoch`."""
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    try:
        moment = datetime.fromtimestamp(int(text) if text else TIME_S, timezone.utc)
    except (ValueError, OverflowError, OSError):
        raise BadEpoch(text) from None
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def made(places: Places, recipe: Recipe) -> tuple[list[Part], Image]:
    """Fetch what is missing, make what is not made yet. Raises `Unavailable`, `StoreFull` and their like."""
    base = bases.locked(places, recipe.base, mirror=recipe.mirror) if recipe.base else None
    environment = setup.for_image(
        places, mirror=recipe.mirror, profile=recipe.profile, engine=recipe.engine,
        prefix=recipe.definition.prefix, check=lambda chosen: _python(places, chosen, base),
    )  # fmt: skip
    catalog = models.load(places.root / models.FILE)
    for spec in recipe.specs:
        fetch.ready(places, catalog, spec, mirror=recipe.mirror)
    return _put_together(places, recipe, environment, base)


def looked(places: Places, recipe: Recipe) -> tuple[list[Part], Image | None]:
    """What `made` would give, as far as that is known without fetching or making anything."""
    base = bases.known(places, recipe.base) if recipe.base else None
    environment = setup.planned_for_image(
        places, mirror=recipe.mirror, profile=recipe.profile, engine=recipe.engine, prefix=recipe.definition.prefix
    )
    store = Store(places.store)
    whole = not recipe.base or (base and all(store.has(blob.sha256) for blob in (*base.blobs, base.manifest)))
    if whole and environment.in_place and all(_is_here(places, spec) for spec in recipe.specs):
        return _put_together(places, recipe, environment.environment, base)
    size = base.size_bytes if base else None
    here = sum(blob.size for blob in base.blobs if store.has(blob.sha256)) if base else 0
    of_base = tuple(base_layers(base, store)) if base and whole else None
    name = environment.environment.name
    of_models = [_looked_weights(places, spec) for spec in recipe.sorted_specs]
    first = Part(BASE, recipe.base, of_base, size, here)
    found = _artifacts(places, recipe, environment.environment)
    parts = [first, *of_models, Part(ENVIRONMENT, name, None), Part(APP, "", None)]
    if found:
        size = sum(each.size_bytes for each in found)
        parts.append(Part(COMPILED, image_contents.artifacts_title(found), None, size, size))
    return parts, None


def base_layers(base: BaseImage, store: Store) -> list[Layer]:
    """The layers of the base image as they lie in the store. Raises `BadBase`."""
    diff_ids = _config(base, store).get("rootfs", {}).get("diff_ids", [])
    if len(diff_ids) != len(base.layers):
        raise BadBase(base)
    return [
        Layer(
            BASE,
            "",
            blob,
            str(diff_id).removeprefix("sha256:"),
            FileContent(store.blob(blob.sha256)),
            base.reference.group,
        )
        for blob, diff_id in zip(base.layers, diff_ids, strict=True)
    ]


def _put_together(
    places: Places, recipe: Recipe, environment: Environment, base: BaseImage | None
) -> tuple[list[Part], Image]:
    store, digests, definition = Store(places.store), Digests(places.images / "layers"), recipe.definition
    folder = definition.folder.lstrip("/")
    listed: dict[str, str] = {}
    parts = [Part(BASE, recipe.base, tuple(base_layers(base, store)))] if base else []
    for spec in recipe.sorted_specs:
        pieces, files = _weights(places, environment, spec, folder)
        listed |= {f"models/{spec.name}/{path}": digest for path, digest in files.items()}
        parts.append(Part(WEIGHTS, spec.name, _layers(digests, WEIGHTS, pieces)))
    piece = image_contents.environment(
        environment, store, folder, _python(places, environment, base), kept=places.images / "conda-bytecode"
    )
    parts.append(Part(ENVIRONMENT, environment.name, _layers(digests, ENVIRONMENT, [piece])))
    bill = sbom.bill(places, environment, [spec.name for spec in recipe.specs if spec.weights], [base] if base else [])
    code = image_contents.app(places.root, environment, definition, listed, bill, kept=places.images / "bytecode")
    parts.append(Part(APP, "", _layers(digests, APP, [code])))
    if found := _artifacts(places, recipe, environment):
        piece = image_contents.artifacts(found, folder)
        parts.append(Part(COMPILED, piece.title, _layers(digests, COMPILED, [piece])))
    settings = definition.settings(_variables(recipe, environment), _labels(places, recipe, environment, base))
    layers = [layer for part in parts for layer in part.layers or ()]
    attached = [Attachment(BILL, BILL_TYPE, bill.encode())]
    config = _config(base, store) if base else EMPTY
    image = images.image(config, layers, settings, created=created(), attachments=attached)
    return parts, image


def _layers(digests: Digests, kind: str, pieces: Sequence[Piece]) -> tuple[Layer, ...]:
    return digests.layers(kind, [(each.title, each.tree) for each in pieces])


def _weights(
    places: Places, environment: Environment, spec: ModelSpec, folder: str
) -> tuple[list[Piece], dict[str, str]]:
    if spec.weights is None:
        return image_contents.made_weights(image_contents.made(places, environment, spec.name), folder, spec.name)
    files = fetch.contents(spec, weights.load(places.root / weights.LOCK)[spec.name])
    return image_contents.weights(Store(places.store), folder, spec.name, files), files


def _artifacts(places: Places, recipe: Recipe, environment: Environment) -> list[Artifact]:
    """Those of the image's models that its PyTorch can load. What is damaged, or was left aside, stays out."""
    wanted = {spec.name for spec in recipe.specs}
    cuda, torch = PROFILES[environment.profile].cuda, _release(environment, "torch")
    found = []
    for folder in compiled.candidates(places.artifacts):
        try:
            artifact = compiled.read(folder)
        except Damaged as error:
            console.warn(error.message)
            continue
        key = artifact.key
        fits = key.model in wanted and (key.torch.partition("+")[0], key.cuda.partition(".")[0]) == (torch, cuda)
        if fits and not compiled.is_aside(places.artifacts, folder.name):
            found.append(artifact)
    return found


def _release(environment: Environment, package: str) -> str:
    """The locked version of a package, without its build; empty if it is not locked."""
    versions = (each.version for each in environment.lock.packages if each.name == package)
    return next(versions, "").partition("+")[0]


def _is_here(places: Places, spec: ModelSpec) -> bool:
    """Whether all that its weights are made of is in the store."""
    lock = weights.load(places.root / weights.LOCK).get(spec.name)
    return spec.weights is None or (lock is not None and not fetch.not_here(places, lock))


def _looked_weights(places: Places, spec: ModelSpec) -> Part:
    lock = weights.load(places.root / weights.LOCK).get(spec.name)
    if spec.weights is None or lock is None:
        return Part(WEIGHTS, spec.name, None)
    weights.check_fits(spec.name, spec.weights, lock)
    missing = sum(file.size for _, file in fetch.not_here(places, lock))
    return Part(WEIGHTS, spec.name, None, lock.size_bytes, lock.size_bytes - missing)


def _python(places: Places, environment: Environment, base: BaseImage | None) -> str:
    """The Python of the base image, for an environment that has none of its own; without a base, this machine is it.

    Raises `NoLibrary`, `NoPython`, `UnreadableBase`.
    """
    store, notes = Store(places.store), places.images / "bases"
    if environment.conda:
        if base and not any(each.name == image_contents.BRINGS_LIBRARY for each in environment.conda.packages):
            image_contents.check_library(base, store, environment.version, notes)
        return ""
    if base is None:
        return str(uv_client.python(environment.version))
    return image_contents.python_of(base, store, environment.version, notes)


def _config(base: BaseImage, store: Store) -> dict[str, Any]:
    try:
        found = json.loads(store.blob(base.config.sha256).read_bytes())
        return dict(found) if found["architecture"] and found["os"] else {}
    except (ValueError, KeyError, TypeError):
        raise BadBase(base) from None


def _variables(recipe: Recipe, environment: Environment) -> dict[str, str]:
    profile = PROFILES[environment.profile]
    found = {"JINGXIANG_MODEL": recipe.specs[0].name}
    if profile.oldest_driver:
        found |= recipe.definition.gpu
        # https://github.com/NVIDIA/nvidia-container-toolkit: every NVIDIA_REQUIRE_… must hold, or nothing is started
        found["NVIDIA_REQUIRE_JINGXIANG"] = f"driver>={profile.oldest_driver}"
    return found


def _labels(places: Places, recipe: Recipe, environment: Environment, base: BaseImage | None) -> dict[str, str]:
    """What the image is made from: digests of locks, revisions and licences of models."""
    found = {
        "org.opencontainers.image.version": __version__,
        "jingxiang.version": __version__,
        "jingxiang.profile": environment.profile,
        f"jingxiang.lock.{environment.profile}": f"sha256:{environment.lock.digest}",
    }
    if base:
        found["org.opencontainers.image.base.name"] = str(base.reference)
        found["org.opencontainers.image.base.digest"] = f"sha256:{base.manifest.sha256}"
    if environment.conda:
        found[f"jingxiang.lock.{conda_locks.NAME}"] = f"sha256:{environment.conda.digest}"
    locked = weights.load(places.root / weights.LOCK)
    licences = {OWN_LICENCE}
    for spec in recipe.sorted_specs:
        if spec.weights is None:
            found[f"jingxiang.model.{spec.name}"] = "made by the app"
            continue
        licences.add(_spdx(spec.weights.licence.name))
        lock = locked[spec.name]
        found[f"jingxiang.model.{spec.name}"] = " ".join(f"{part.repository}@{part.revision}" for part in lock.parts)
        found[f"jingxiang.model.{spec.name}.lock"] = f"sha256:{lock.digest}"
        found[f"jingxiang.model.{spec.name}.licence"] = f"{spec.weights.licence.name} {spec.weights.licence.url}"
    return {**found, "org.opencontainers.image.licenses": " AND ".join(sorted(licences))}


def _spdx(licence: str) -> str:
    """A licence in an SPDX expression, in which those without a name of their own there have to say so."""
    try:
        return licenses.canonicalize_license_expression(licence)
    except licenses.InvalidLicenseExpression:
        return f"LicenseRef-{re.sub('[^A-Za-z0-9.]+', '-', licence)}"
