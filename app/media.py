"""Pictures and videos, by key, in a folder or a bucket: what several machines that share one queue must share, too.

    pictures/SHA256.png   a source, under the hash of the file that somebody sent
    videos/ID.mp4         a result

Everything under a key is whole: it is written under another name first, or by one request that succeeds or does
nothing.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec

from app.jobs.base import Job
from app.texts import tr
from jingxiang.errors import JingxiangError, UsageError
from jingxiang.redaction import redact

PICTURES, VIDEOS = "pictures", "videos"
SCHEMES = ("file", "memory", "s3", "oss")
# What else s3fs must know of Alibaba's service, which speaks S3 with the bucket as part of the host's name, and does
# not take the checksums that newer clients add by themselves.
OSS = {
    "config_kwargs": {
        "s3": {"addressing_style": "virtual"},
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
    }
}


def picture_key(digest: str) -> str:
    """Of a source, by the SHA-256 of the file that was sent."""
    return f"{PICTURES}/{digest}.png"


def digest_of(picture: str) -> str:
    """What `picture_key` was made of."""
    return picture.removeprefix(f"{PICTURES}/").removesuffix(".png")


def video_key(job: Job) -> str:
    """Each claim has a name of its own: a worker that was cut off must not write over what another one made."""
    return f"{VIDEOS}/{job.id}.mp4" if job.claim == 1 else f"{VIDEOS}/{job.id}.{job.claim}.mp4"  # no id has a point


def number_of(video: str) -> str:
    """The id of the job that a video, or what lies beside it, belongs to."""
    return video.removeprefix(f"{VIDEOS}/").partition(".")[0]


def sidecar_key(video: str) -> str:
    """Of what lies beside a video and says how it was made."""
    return video.removesuffix(".mp4") + ".json"


class MediaFailed(JingxiangError):
    """A file cannot be read or written where pictures and videos are."""


class MediaGone(MediaFailed):
    """It is not there."""

    def __init__(self, key: str) -> None:
        super().__init__(tr("{key} is not there any more", key=key))


class Media:
    """All methods raise `MediaFailed`."""

    def __init__(self, url: str) -> None:
        """`url`: a folder, or s3://BUCKET/PREFIX, or oss://BUCKET/PREFIX. Keys to buckets come from where their own
        tools look for them: AWS_*, AWS_ENDPOINT_URL; OSS_ENDPOINT, OSS_ACCESS_KEY_ID and OSS_ACCESS_KEY_SECRET.
        """
        scheme = urlsplit(url).scheme or "file"
        if scheme not in SCHEMES:
            raise UsageError(tr("{url}: must be a folder, s3://… or oss://…", url=redact(url)))
        self._fs, self._root = fsspec.core.url_to_fs(url.replace("oss://", "s3://", 1), **_options(scheme))
        self._folder = Path(self._root) if scheme == "file" else None

    def put(self, key: str, data: bytes) -> None:
        with self._guarded(key):
            if self._folder is None:
                self._fs.pipe_file(f"{self._root}/{key}", data)
            else:
                with _appearing(self._folder / key) as part:
                    part.write_bytes(data)

    def put_file(self, key: str, file: Path) -> None:
        """Take over a file; it may be gone afterwards."""
        with self._guarded(key):
            if self._folder is None:
                self._fs.put_file(str(file), f"{self._root}/{key}")
            else:
                with _appearing(self._folder / key) as part:
                    _move(file, part)

    def get(self, key: str) -> bytes:
        with self._guarded(key):
            data: bytes = self._fs.cat_file(f"{self._root}/{key}")
            return data

    def size(self, key: str) -> int:
        with self._guarded(key):
            return int(self._fs.size(f"{self._root}/{key}"))

    def keys(self, folder: str) -> list[str]:
        """Of everything in a folder."""
        with self._guarded(folder):
            try:
                names = self._fs.ls(f"{self._root}/{folder}", detail=False)
            except FileNotFoundError:  # nothing was ever put there
                return []
            return [f"{folder}/{name.rpartition('/')[2]}" for name in names]

    def age_s(self, key: str) -> float:
        """Seconds since it was put there, by the clocks of whoever keeps it and of this machine."""
        with self._guarded(key):
            modified = self._fs.modified(f"{self._root}/{key}")
            return float((datetime.now(timezone.utc) - modified.astimezone(timezone.utc)).total_seconds())

    def delete(self, key: str) -> None:
        """Nothing happens if it is not there."""
        with self._guarded(key), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(f"{self._root}/{key}")

    def file(self, key: str) -> Path | None:
        """Where it lies, if that is a folder of this machine."""
        return self._folder / key if self._folder is not None else None

    def parts(self, key: str, size: int = 1 << 20) -> Iterator[bytes]:
        """All of it, piece by piece."""
        with self._guarded(key), self._fs.open(f"{self._root}/{key}", "rb") as file:
            while piece := file.read(size):
                yield piece

    @contextlib.contextmanager
    def _guarded(self, key: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise MediaGone(key) from error
        except Exception as error:  # of each kind of bucket another
            reason = getattr(error, "strerror", None) or redact(str(error)) or type(error).__name__
            raise MediaFailed(f"{key}: {reason}") from error  # whoever asked for a video need not know where we keep it


def _options(scheme: str) -> dict[str, Any]:
    if scheme == "s3":
        return {"use_listings_cache": False}
    if scheme != "oss":
        return {}
    names = {"endpoint_url": "OSS_ENDPOINT", "key": "OSS_ACCESS_KEY_ID", "secret": "OSS_ACCESS_KEY_SECRET"}
    missing = [name for name in names.values() if not os.environ.get(name)]
    if missing:
        raise UsageError(tr("oss://… needs {names} in the environment", names=", ".join(missing)))
    return {"use_listings_cache": False, **{key: os.environ[name] for key, name in names.items()}, **OSS}


@contextlib.contextmanager
def _appearing(file: Path) -> Iterator[Path]:
    """A path to write to, which takes the file's name when all is written."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{secrets.token_hex(4)}.part")
    try:
        yield part
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def _move(file: Path, to: Path) -> None:
    try:
        file.replace(to)
    except OSError:  # another file system
        import shutil

        shutil.copyfile(file, to)
