"""app.media: in a folder, and in the buckets of a real S3 server"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from app.generation import Order
from app.jobs.base import Job
from app.media import Media, MediaFailed, number_of, sidecar_key, video_key
from jingxiang.errors import UsageError
from jingxiang.models import Preset


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """Address of an S3 server with a bucket that is called jingxiang."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    boto3.client(
        "s3", endpoint_url=address, region_name="us-east-1", aws_access_key_id="k", aws_secret_access_key="s"
    ).create_bucket(Bucket="jingxiang")
    yield address
    server.stop()


@pytest.fixture(params=["folder", "s3"])
def media(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_proxy: None) -> Media:
    if request.param == "folder":
        return Media(str(tmp_path / "media"))
    for name, value in {
        "AWS_ENDPOINT_URL": request.getfixturevalue("bucket"), "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    return Media(f"s3://jingxiang/{tmp_path.name}")


def test_what_is_put_is_there_until_it_is_deleted(media: Media, tmp_path: Path) -> None:
    assert media.keys("pictures") == []
    media.put("pictures/a.png", b"abc")
    media.put("pictures/a.png", b"abcd")
    assert media.keys("pictures") == ["pictures/a.png"]
    assert 0 <= media.age_s("pictures/a.png") < 60
    assert (media.get("pictures/a.png"), media.size("pictures/a.png")) == (b"abcd", 4)
    video = tmp_path / "video.mp4"
    video.write_bytes(b"x" * 3_000_000)
    media.put_file("videos/a.mp4", video)
    assert b"".join(media.parts("videos/a.mp4", 1 << 20)) == b"x" * 3_000_000
    for key in ("pictures/a.png", "videos/a.mp4", "videos/never.mp4"):
        media.delete(key)
        assert key not in media.keys(key.partition("/")[0])


def test_what_is_missing_is_said_without_where_it_should_be(media: Media) -> None:
    with pytest.raises(MediaFailed, match=r"^videos/none\.mp4 is not there any more$"):
        media.get("videos/none.mp4")
    with pytest.raises(MediaFailed, match="is not there any more"):
        list(media.parts("videos/none.mp4"))


def test_only_a_folder_has_files(media: Media, request: pytest.FixtureRequest) -> None:
    is_bucket = request.node.callspec.params["media"] == "s3"
    media.put("videos/a.mp4", b"abc")
    file = media.file("videos/a.mp4")
    assert (file.read_bytes() if file else None) == (None if is_bucket else b"abc")


def test_nothing_is_left_of_what_could_not_be_written(tmp_path: Path) -> None:
    media = Media(str(tmp_path / "media"))
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "videos").write_text("a file where a folder should be")
    with pytest.raises(MediaFailed, match=r"^videos/a\.mp4: File exists$"):
        media.put("videos/a.mp4", b"abc")
    with pytest.raises(MediaFailed):
        media.put_file("pictures/a.png", tmp_path / "nothing")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["videos"]


def test_a_bucket_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch, no_proxy: None) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "geheim",
        "AWS_MAX_ATTEMPTS": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    with pytest.raises(MediaFailed) as caught:
        Media("s3://nowhere/x").get("videos/a.mp4")
    assert "\n" not in caught.value.message
    assert "geheim" not in caught.value.message


def test_aliyun_s_buckets_want_an_address_and_a_key(monkeypatch: pytest.MonkeyPatch, bucket: str) -> None:
    names = ("OSS_ENDPOINT", "OSS_ACCESS_KEY_ID", "OSS_ACCESS_KEY_SECRET")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    message = "oss://… needs OSS_ENDPOINT, OSS_ACCESS_KEY_ID, OSS_ACCESS_KEY_SECRET in the environment"
    with pytest.raises(UsageError, match=message):
        Media("oss://bucket/x")
    for name, value in zip(names, (bucket, "k", "s"), strict=True):
        monkeypatch.setenv(name, value)
    options = Media("oss://bucket/x")._fs
    assert (options.endpoint_url, options.key, options.secret) == (bucket, "k", "s")
    assert options.config_kwargs["s3"] == {"addressing_style": "virtual"}


@pytest.mark.parametrize("url", ["http://h/x", "ftp://h", "gs://b/x"])
def test_other_places_are_wrong_use(url: str) -> None:
    with pytest.raises(UsageError, match="must be a folder, s3://… or oss://…"):
        Media(url)


def test_each_claim_of_each_job_has_a_name_of_its_own(tmp_path: Path) -> None:
    preset = Preset(64, 64, 8, 4, 8, 9.0)
    order = Order("smoke", "ab" * 32, "a cat", "fast", preset, 7, "en")
    job = Job("a", "", order, "running", 0, 0, 1, 0, "w1", "", None, False, 0.0, None, None)
    jobs = [replace(job, id=number, claim=claim) for number in ("a", "a-2", "a-2-2") for claim in (1, 2, 22)]
    keys = [video_key(each) for each in jobs]
    assert len(set(keys)) == len(keys)
    for each, key in zip(jobs, keys, strict=True):
        assert number_of(key) == number_of(sidecar_key(key)) == each.id


def test_a_sidecar_lies_beside_its_video() -> None:
    assert sidecar_key("videos/a.b-2.mp4") == "videos/a.b-2.json"
