"""`sbom`: what an environment, models and base images are made of, from their locks, for those who have to know."""

from __future__ import annotations

from collections.abc import Sequence

from jingxiang import base_images, conda_locks, console, gpu, materials, models, profiles, weights
from jingxiang.base_images import BaseImage
from jingxiang.commands import engines, setup
from jingxiang.commands.fetch import NotFetched
from jingxiang.commands.model_locks import NoWeights
from jingxiang.environments import PYTHON, Environment
from jingxiang.errors import UnknownName
from jingxiang.fetch import resolve
from jingxiang.materials import Materials, Model
from jingxiang.models import ModelSpec
from jingxiang.places import Places
from jingxiang.weights import ModelLock


def sbom(places: Places, *, profile: str, engine: str, names: Sequence[str]) -> None:
    """One CycloneDX document on stdout. Nothing is fetched. Raises `NotFetched` for a model that is not locked yet."""
    if engine not in (engines.AUTO, *engines.ENGINES):
        raise UnknownName("engine", engine, (engines.AUTO, *engines.ENGINES))
    profiles.check(profile)
    chosen = profiles.choose(profile, gpu.detect()).profile.name
    conda = engines.lock(places) if engine != engines.VENV else None
    images = base_images.load(places.root / base_images.LOCK)
    console.data(bill(places, setup.planned(places, chosen, conda), names, [*images.values()]))


def bill(places: Places, environment: Environment, names: Sequence[str], images: Sequence[BaseImage]) -> str:
    """Of an environment, models and base images, all from their locks."""
    lock, conda = environment.lock, environment.conda
    catalog, locked = models.load(places.root / models.FILE), weights.load(places.root / weights.LOCK)
    target = resolve.target(PYTHON)
    found = {name: _model(catalog.model(name), locked.get(name)) for name in names}
    digests = {environment.profile: lock.digest, **{f"model:{name}": locked[name].digest for name in found}}
    digests |= {conda_locks.NAME: conda.digest} if conda else {}
    digests |= {str(image.reference): image.manifest.sha256 for image in images}
    packages = [package for package in lock.packages if target.wants(package)]
    listed = Materials(digests, packages, conda.packages if conda else (), [*found.values()], images)
    return materials.written(listed)


def _model(spec: ModelSpec, lock: ModelLock | None) -> Model:
    if spec.weights is None:
        raise NoWeights(spec.name)
    if lock is None or not lock.is_complete:
        raise NotFetched(spec.name)
    weights.check_fits(spec.name, spec.weights, lock)
    return Model(spec.name, spec.weights.licence, lock.parts)
