"""The bill of materials: everything that an environment and its models are made of, as CycloneDX has it.

https://cyclonedx.org/docs/1.6/json/. Made of the locks alone: no time, no place and nothing of this machine is in it,
so the same locks give the same bytes.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cyclonedx.model import HashAlgorithm, HashType, Property, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

from jingxiang import __version__
from jingxiang.base_images import BaseImage
from jingxiang.digest import canonical_json, sha256_bytes
from jingxiang.locks import CondaPackage, LockedPackage
from jingxiang.weights import Licence, LockedPart

# Names a bill by what is in it: RFC 9562, version 5.
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "jingxiang.bill-of-materials")


@dataclass(frozen=True)
class Model:
    """A model with its licence and what it is made of."""

    name: str
    licence: Licence
    parts: Sequence[LockedPart]


@dataclass(frozen=True)
class Materials:
    """What goes into the bill. `locks`: by name, the digests of the locks that it was made of."""

    locks: Mapping[str, str]
    packages: Sequence[LockedPackage] = ()
    conda: Sequence[CondaPackage] = ()
    models: Sequence[Model] = ()
    images: Sequence[BaseImage] = ()


def written(materials: Materials) -> str:
    """The bill as CycloneDX 1.6 JSON, two spaces deep."""
    bill = Bom(components=list(_components(materials)))
    bill.metadata.component = Component(name="jingxiang", version=__version__, type=ComponentType.APPLICATION,
                                        bom_ref="jingxiang")  # fmt: skip
    bill.metadata.properties = [Property(name=f"jingxiang:lock:{name}", value=f"sha256:{digest}")
                                for name, digest in materials.locks.items()]  # fmt: skip
    bill.metadata.timestamp = None  # type: ignore[assignment]  # the schema does not demand one, and it would change every time
    contents = sha256_bytes(canonical_json([__version__, dict(materials.locks)]))
    bill.serial_number = uuid.uuid5(NAMESPACE, contents)
    bill.register_dependency(bill.metadata.component, list(bill.components))
    return make_outputter(bill, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=2)


def _components(materials: Materials) -> Iterable[Component]:
    yield from map(_package, materials.packages)
    yield from map(_conda, materials.conda)
    for model in materials.models:
        yield from (_weights(model, part) for part in model.parts)
    yield from map(_image, materials.images)


def _package(package: LockedPackage) -> Component:
    """Of the files of a version one is installed; which one is, a lock for several machines does not say."""
    one = len(package.hashes) == 1
    named = PackageURL("pypi", name=package.name, version=package.version)
    return Component(
        name=package.name, version=package.version, purl=named, bom_ref=str(named),
        hashes=[_sha256(package.hashes[0])] if one else (),
        properties=[] if one else [Property(name="jingxiang:one-of-sha256", value=each) for each in package.hashes],
    )  # fmt: skip


def _conda(package: CondaPackage) -> Component:
    subdir, _, file = package.path.partition("/")
    stem = file.removesuffix(".conda").removesuffix(".tar.bz2")
    qualifiers = {"channel": package.channel, "subdir": subdir, "build": stem.rpartition("-")[2]}
    named = PackageURL("conda", name=package.name, version=package.version, qualifiers=qualifiers)
    return Component(
        name=package.name, version=package.version, purl=named, bom_ref=str(named), hashes=[_sha256(package.sha256)]
    )


def _weights(model: Model, part: LockedPart) -> Component:
    owner, _, name = part.repository.partition("/")
    named = PackageURL("huggingface", owner, name, part.revision)
    files = [
        Component(name=each.path, type=ComponentType.FILE, bom_ref=f"{model.name}:{named}#{each.path}",
                  hashes=[_sha256(each.sha256)])
        for each in part.files
    ]  # fmt: skip
    return Component(
        name=name, group=owner, version=part.revision, type=ComponentType.MACHINE_LEARNING_MODEL, purl=named,
        bom_ref=f"{model.name}:{named}", components=files,
        licenses=[DisjunctiveLicense(name=model.licence.name, url=XsUri(model.licence.url))],
    )  # fmt: skip


def _image(image: BaseImage) -> Component:
    name, digest = image.reference.repository.rpartition("/")[2], f"sha256:{image.manifest.sha256}"
    named = PackageURL("oci", name=name, version=digest, qualifiers={"repository_url": image.reference.group})
    return Component(
        name=image.reference.group, version=image.reference.what, type=ComponentType.CONTAINER, purl=named,
        bom_ref=str(named), hashes=[_sha256(image.manifest.sha256)],
    )  # fmt: skip


def _sha256(digest: str) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=digest)
