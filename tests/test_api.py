"""app.api, app.desk, app.watch and app.metrics: a real server, asked over HTTP"""

from __future__ import annotations

import hashlib
import io
import json
import re
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from PIL import Image

from app import provenance
from app.jobs.base import WorkerStatus
from app.jobs.database import Database
from app.jobs.store import JobStore
from tests.peers import postgres
from tests.peers.app import App, serving, suspend, wait_for


@pytest.fixture(scope="module")
def app(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    with serving(models, tmp_path_factory.mktemp("app")) as started:
        started.wait_until_ready()
        yield started


def worker(app: App) -> psutil.Process:
    (found,) = psutil.Process(app.process.pid).children()
    return found


def free(app: App) -> None:
    """Cancel and forget all jobs."""
    with app.client() as client:
        for _ in range(2):
            for job in client.get("/api/jobs").json():
                client.delete(f"/api/jobs/{job['id']}")
            wait_for(lambda: client.get("/api/queue").json()["running"] == 0)


def test_a_job_from_the_picture_to_the_video(app: App, photo: Path) -> None:
    answer = app.post(photo, seed=5, prompt="a cat, 一只猫 🐈", negative_prompt="blurry, 文字")
    assert answer.status_code == 201
    job = answer.json()
    assert answer.headers["location"] == f"/api/jobs/{job['id']}"
    assert (job["state"], job["model"], job["preset"], job["prompt"], job["seed"], job["steps"]) == (
        "queued", "smoke", "fast", "a cat, 一只猫 🐈", 5, 4,
    )  # fmt: skip
    assert job["negative_prompt"] == "blurry, 文字"
    assert job["picture"] == hashlib.sha256(photo.read_bytes()).hexdigest()
    assert job["settings"] == {"width": 64, "height": 64, "frames": 8, "steps": 4, "fps": 8, "guidance": 9.0}
    done = app.ended(job["id"])
    assert (done["state"], done["step"], done["reason"], done["unread"]) == ("done", 4, "", "")
    assert done["created"] <= done["started"] <= done["ended"]
    with app.client() as client:
        video = client.get(done["video"])
        assert (video.status_code, video.headers["content-type"], len(video.content)) == (
            200,
            "video/mp4",
            done["bytes"],
        )
        part = client.get(done["video"], headers={"range": "bytes=4-7"})
        assert (part.status_code, part.content) == (206, b"ftyp")
        source = client.get(f"/api/jobs/{job['id']}/picture")
        assert Image.open(io.BytesIO(source.content)).size == (640, 480)
    (file,) = app.outputs.glob(f"videos/{job['id']}.mp4")
    made = provenance.read(file)
    assert made is not None
    assert (made.model, made.seed, made.picture) == ("smoke", 5, job["picture"])
    assert made.settings["negative_prompt"] == "blurry, 文字"
    assert json.loads(file.with_suffix(".json").read_text()) == made.to_json()


def test_events_tell_each_change_to_the_end(app: App, photo: Path) -> None:
    number = app.post(photo, preset="standard").json()["id"]
    told: list[dict[str, Any]] = []
    names = []
    with app.client() as client, client.stream("GET", f"/api/jobs/{number}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        for line in stream.iter_lines():
            if line.startswith("event:"):
                names.append(line.removeprefix("event:").strip())
            elif line.startswith("data:"):
                told.append(json.loads(line.removeprefix("data:")))
    assert names == [job["state"] for job in told]
    assert told[-1]["state"] == "done"
    steps = [job["step"] for job in told if job["state"] == "running"]
    assert steps == sorted(steps)
    assert len(set(steps)) > 1
    # of one that has ended, the end
    assert app.get(f"/api/jobs/{number}/events")[1].count("event: done") == 1


def told(stream: httpx.Response) -> Iterator[tuple[str, Any]]:
    """Names and values of the events of a stream."""
    name = ""
    for line in stream.iter_lines():
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            yield name, json.loads(value)


def test_a_page_hears_of_everything_on_one_connection(app: App, photo: Path) -> None:
    free(app)
    old = app.ended(app.post(photo).json()["id"])
    with app.client() as client, client.stream("GET", "/api/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        events = told(stream)
        assert next(events) == ("jobs", client.get("/api/jobs").json())
        name, status = next(events)
        assert name == "status"
        assert (status["model"], status["loading"], status["queued"], status["running"], status["waiting_limit"]) == (
            "smoke", "", 0, 0, 5,
        )  # fmt: skip
        assert status["draining"] is False
        assert status["disk_free_bytes"] > 0
        (one,) = status["workers"]
        assert (one["models"], one["device"], one["total_bytes"] > 0) == (["smoke"], "cpu", True)
        number = app.post(photo).json()["id"]
        jobs = []
        for name, each in events:
            if name == "job":
                jobs.append(each)
                if each["state"] == "done":
                    break
        assert {job["id"] for job in jobs} == {number}
        assert jobs[-1] == app.job(number)
        client.delete(f"/api/jobs/{old['id']}")
        assert next(each for name, each in events if name == "gone") == {"id": old["id"]}


def test_how_far_a_job_is_can_be_seen_while_it_runs(app: App, photo: Path) -> None:
    number = app.post(photo, steps=100, width=128, preset="standard").json()["id"]
    app.running(number)
    with app.client() as client:
        wait_for(lambda: app.job(number)["preview"] > 0)
        shown = client.get(f"/api/jobs/{number}/preview")
        assert (shown.status_code, shown.headers["content-type"], shown.headers["cache-control"]) == (
            200, "image/jpeg", "no-store",
        )  # fmt: skip
        settings = app.job(number)["settings"]
        assert Image.open(io.BytesIO(shown.content)).size == (settings["width"] // 8, settings["height"] // 8)
        client.delete(f"/api/jobs/{number}")
        assert app.ended(number)["preview"] == 0
        gone = client.get(f"/api/jobs/{number}/preview")
        assert (gone.status_code, gone.content) == (204, b"")
        assert client.get("/api/jobs/nothing/preview").json()["error"] == "there is no job nothing"


def test_cancel_forget_retry_and_pin(app: App, photo: Path) -> None:
    number = app.post(photo, steps=100).json()["id"]
    app.running(number)
    with app.client() as client:
        assert client.get(f"/api/jobs/{number}/video").status_code == 409
        assert client.delete(f"/api/jobs/{number}").json()["state"] == "running"
        cancelled = app.ended(number)
        assert cancelled["state"] == "cancelled"
        assert cancelled["step"] < 100
        assert client.post(f"/api/jobs/{number}/pin").json()["pinned"] is True
        assert client.post(f"/api/jobs/{number}/pin", params={"pinned": False}).json()["pinned"] is False
        assert client.post(f"/api/jobs/{number}/retry").json()["state"] == "queued"
        again = client.post(f"/api/jobs/{number}/retry")
        assert again.status_code == 409
        client.delete(f"/api/jobs/{number}")
        app.ended(number)
        done = app.ended(app.post(photo).json()["id"])
        key = f"videos/{done['id']}.mp4"
        assert (app.outputs / key).exists()
        for each in (done["id"], number):
            assert client.delete(f"/api/jobs/{each}").status_code == 200
            assert client.get(f"/api/jobs/{each}").status_code == 404
        assert not (app.outputs / key).exists()
        assert not (app.outputs / key).with_suffix(".json").exists()


def test_older_jobs_are_asked_for_in_parts(app: App, photo: Path) -> None:
    free(app)
    for seed in range(3):
        app.ended(app.post(photo, seed=seed).json()["id"])
    with app.client() as client:
        everything = client.get("/api/jobs").json()
        assert len(everything) >= 3
        first, *rest = everything
        asked = client.get("/api/jobs", params={"most": 1, "before": first["id"]})
        assert asked.json() == rest[:1]
        assert client.get("/api/jobs", params={"before": first["id"]}).json() == rest
        assert client.get("/api/jobs", params={"before": everything[-1]["id"]}).json() == []
        for unknown in ("nothing", "../x"):
            assert client.get("/api/jobs", params={"before": unknown}).status_code == 404


def test_a_picture_that_came_just_now_is_kept(app: App, tmp_path: Path) -> None:
    own = tmp_path / "own.png"
    Image.new("RGB", (99, 99), "teal").save(own)
    numbers = [app.post(own).json()["id"] for _ in range(2)]
    picture = app.outputs / "pictures" / f"{app.job(numbers[0])['picture']}.png"
    with app.client() as client:
        for number in numbers:
            app.ended(number)
            client.delete(f"/api/jobs/{number}")
            assert picture.exists()  # its job might be under way


def test_the_queue_is_full_for_all_but_five(app: App, photo: Path) -> None:
    """50 at once: none is lost, none is made twice, the others are told when to come back."""
    free(app)
    running = app.post(photo, steps=100).json()["id"]
    app.running(running)
    suspend(worker(app), app.outputs)
    try:
        with ThreadPoolExecutor(50) as pool:
            answers = list(pool.map(lambda number: app.post(photo, seed=number, id=f"crowd-{number}"), range(50)))
        taken = [answer.json() for answer in answers if answer.status_code == 201]
        refused = [answer for answer in answers if answer.status_code != 201]
        assert Counter(answer.status_code for answer in answers) == {201: 5, 429: 45}
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        assert all(answer.json()["error"].startswith("the queue is full: 5 are waiting") for answer in refused)
        assert sorted(app.job(job["id"])["position"] for job in taken) == [1, 2, 3, 4, 5]
        with app.client() as client:
            last = next(job["id"] for job in taken if app.job(job["id"])["position"] == 5)
            assert client.post(f"/api/jobs/{last}/move", params={"position": 0}).json()["position"] == 1
    finally:
        worker(app).resume()
    with app.client() as client:
        client.delete(f"/api/jobs/{running}")
    assert {app.ended(job["id"])["state"] for job in taken} == {"done"}


def test_the_same_id_is_the_same_job(app: App, photo: Path) -> None:
    first, again = app.post(photo, id="mine-1"), app.post(photo, id="mine-1")
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json()["seed"] == first.json()["seed"]
    for change in ({"prompt": "a dog"}, {"negative_prompt": "blurry"}):
        other = app.post(photo, id="mine-1", **change)
        assert (other.status_code, other.json()["error"]) == (
            409, "job mine-1 is already there and asks for something else",
        )  # fmt: skip
    app.ended("mine-1")


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"prompt": " "}, "the prompt is empty: say in English what should move and how"),
        ({"frames": 0}, "frames: should be from 1 to 32"),
        ({"frames": 10000}, "frames: should be from 1 to 32"),
        ({"width": 100}, "width: should be a multiple of 8"),
        ({"frames": "many"}, "frames: Input should be a valid integer, unable to parse string as an integer"),
        ({"guidance": "nan"}, "guidance: should be from 1 to 20"),
        ({"seed": -1}, "the seed must be between 0 and 4294967295"),
        ({"preset": "fats"}, "app/models.toml: smoke: no preset named 'fats'; there is fast, standard"),
        ({"model": "smok"}, "app/models.toml: no model named 'smok'; there is animatediff, i2vgen-xl, smoke, svd-xt"),
        ({"model": "svd-xt"}, "Stable Video Diffusion XT is not on this machine; there is smoke"),
        ({"id": "../x"}, "the id must be of 1 to 64 letters, digits, - and _"),
        ({"id": "abc\n"}, "the id must be of 1 to 64 letters, digits, - and _"),
        ({"id": "x" * 65}, "the id must be of 1 to 64 letters, digits, - and _"),
    ],
)
def test_what_cannot_be_made_is_said(app: App, photo: Path, form: dict[str, object], message: str) -> None:
    answer = app.post(photo, **form)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(message)


def test_what_is_gone_is_said(app: App, photo: Path) -> None:
    done = app.ended(app.post(photo).json()["id"])
    (app.outputs / "videos" / f"{done['id']}.mp4").unlink()
    status, text = app.get(done["video"])
    assert (status, json.loads(text)["error"]) == (410, f"videos/{done['id']}.mp4 is not there any more")
    for number in ("nothing", "%00", "a%20b", "..%2fjobs.sqlite3"):
        assert app.get(f"/api/jobs/{number}")[0] == 404


def test_a_prompt_that_is_too_long_is_made_and_what_was_cut_is_said(app: App, photo: Path) -> None:
    assert app.ended(app.post(photo, prompt="x" * 80).json()["id"])["unread"] == "x" * 5


def test_bad_pictures_are_said_in_the_asker_s_language(app: App, photo: Path, tmp_path: Path) -> None:
    cases = {"cut": photo.read_bytes()[:3000], "text": b"no picture", "empty": b""}
    for data in cases.values():
        with app.client(**{"accept-language": "zh-CN"}) as client:
            answer = client.post("/api/jobs", files={"image": ("a.jpg", data)}, data={"prompt": "a cat"})
        assert answer.status_code == 400
        assert answer.json()["error"].startswith("图片：")
    with app.client() as client:
        assert client.post("/api/jobs", data={"prompt": "a cat"}).json()["error"] == "image: Field required"


def test_a_large_upload_is_refused_before_it_is_read(app: App) -> None:
    with app.client() as client:
        answer = client.post("/api/jobs", files={"image": ("a.png", bytes(30 << 20))}, data={"prompt": "a cat"})
    assert (answer.status_code, answer.json()["error"]) == (413, "at most 20 MB")

    def endless() -> Iterator[bytes]:
        """Whose length is not said beforehand."""
        yield b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        for _ in range(22):
            yield bytes(1 << 20)

    with app.client(**{"content-type": "multipart/form-data; boundary=b"}) as client:
        answer = client.post("/api/jobs", content=endless())
    assert (answer.status_code, answer.json()["error"]) == (413, "at most 20 MB")


def test_who_goes_away_while_sending_leaves_nothing(app: App, photo: Path) -> None:
    with app.client() as client:
        before = client.get("/api/jobs").json()
    host, port = app.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = (
            f"POST /api/jobs HTTP/1.1\r\nHost: {host}\r\nContent-Type: multipart/form-data; boundary=b\r\n"
            'Content-Length: 100000\r\n\r\n--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        )
        connection.sendall(head.encode() + bytes(5000))
    app.ended(app.post(photo, id="after-the-other").json()["id"])  # so long the server has had to notice
    with app.client() as client:
        client.delete("/api/jobs/after-the-other")
        assert client.get("/api/jobs").json() == before
        assert client.get("/readyz").status_code == 200
    assert "Traceback" not in app.log.read_text()


def test_other_sites_cannot_use_a_visitor_s_browser(app: App, photo: Path) -> None:
    for origin, status in (("http://elsewhere.example", 403), (app.url, 201)):
        with app.client(origin=origin) as client:
            files = {"image": photo.read_bytes()}
            assert client.post("/api/jobs", files=files, data={"prompt": "a", "preset": "fast"}).status_code == status
    with app.client(origin="http://elsewhere.example") as client:
        assert client.post("/api/models/smoke/load").status_code == 403
        assert client.get("/gradio_api/info").status_code == 403
        assert client.get("/healthz").status_code == 200
    with app.client(host="elsewhere.example:7860", origin="http://elsewhere.example:7860") as client:
        assert client.get("/api/jobs").status_code == 403  # a name that leads here since its page was loaded
    with app.client(host=f"localhost:{app.url.rpartition(':')[2]}") as client:
        assert client.get("/api/jobs").status_code == 200


def test_the_model_can_be_loaded_again(app: App) -> None:
    wait_for(lambda: json.loads(app.get("/readyz")[1])["status"] == "ready")
    before = app.log.read_text().count("Smoke model loaded")
    with app.client() as client:
        assert client.post("/api/models/smoke/load").json()["model"] == "smoke"
        missing = client.post("/api/models/svd-xt/load")
        assert (missing.status_code, missing.json()["hints"]) == (400, ["python3 tasks.py fetch svd-xt"])
    wait_for(lambda: app.log.read_text().count("Smoke model loaded") == before + 1)


def test_what_a_job_takes_is_known_beforehand_and_better_after_the_first(app: App, photo: Path) -> None:
    app.ended(app.post(photo).json()["id"])
    with app.client() as client:
        (smoke,) = client.get("/api/models").json()
        assert (smoke["name"], smoke["title"], smoke["takes_prompt"], smoke["is_default"]) == (
            "smoke", "Smoke model", True, True,
        )  # fmt: skip
        assert smoke["recommended"] == "standard"
        assert list(smoke["presets"]) == ["standard", "fast"]
        fast = smoke["presets"]["fast"]
        assert (fast["fits"], fast["rung"], fast["message"], fast["settings"]["steps"]) == (True, "full", "", 4)
        assert fast["needed_bytes"] > 0
        assert fast["seconds"] > 0
        assert {title: (size["settings"]["width"], size["settings"]["height"], size["settings"]["steps"])
                for title, size in smoke["sizes"].items()} == {"256p": (336, 192, 10)}  # fmt: skip
        assert smoke["limits"]["width"] == {"least": 8, "most": 512, "multiple": 8}
        assert smoke["limits"]["frames"] == {"least": 1, "most": 32, "multiple": 1}
        assert smoke["limits"]["guidance"] == {"least": 1, "most": 20, "multiple": 0}
        assert list(smoke["limits"]) == ["width", "height", "frames", "steps", "fps", "guidance"]
        assert smoke["advice"] == {}
        large = client.get("/api/models/smoke/estimate", params={"preset": "standard", "frames": 32}).json()
        assert large["settings"]["frames"] == 32
        assert large["needed_bytes"] >= fast["needed_bytes"]
        assert large["seconds"] > fast["seconds"]
        wrong = client.get("/api/models/smoke/estimate", params={"frames": 33})
        assert (wrong.status_code, wrong.json()["error"]) == (400, "frames: should be from 1 to 32")


def test_how_much_of_a_prompt_is_read_is_known_beforehand(app: App) -> None:
    def asked(model: str, prompt: str, language: str = "en") -> Any:
        with app.client(**{"accept-language": language}) as client:
            answer = client.get(f"/api/models/{model}/tokens", params={"prompt": prompt})
        return answer.json() if answer.status_code == 200 else answer.status_code

    assert asked("smoke", "a cat") == {"used": 4, "most": 75, "unread": "", "advice": []}
    long = asked("smoke", "x" * 80)
    assert (long["used"], long["most"], long["unread"]) == (80, 75, "x" * 5)
    assert long["advice"] == ["the prompt is too long; the model did not read: xxxxx"]
    assert asked("smoke", "一只猫", "zh")["advice"] == ["模型只懂英文：请用英文描述"]
    assert asked("smoke", "🐈" * 4000)["used"] == 16000
    assert asked("svd-xt", "一只猫") == {"used": None, "most": None, "unread": "", "advice": []}
    assert asked("animatediff", "一只猫") == {
        "used": None, "most": None, "unread": "", "advice": ["the model understands English only: say it in English"],
    }  # fmt: skip
    assert asked("smoke", "x" * 4001) == asked("smok", "x") == 400


def test_the_log_in_short_is_there_for_who_is_in_charge(app: App, photo: Path) -> None:
    app.ended(app.post(photo, prompt="my secret cat").json()["id"])
    status, text = app.get("/api/log/summary")
    assert status == 200
    assert re.search(r"\d+ done, 0 failed since", text)
    assert "no errors in the log" in text
    assert "secret cat" not in text + (app.outputs / "logs" / "worker.jsonl").read_text()
    assert "日志中没有错误" in app.get("/api/log/summary", accept_language="zh")[1]


def test_metrics_are_what_prometheus_reads(app: App, photo: Path) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    free(app)
    app.ended(app.post(photo).json()["id"])
    status, text = app.get("/metrics")
    assert status == 200
    samples = {
        (sample.name, sample.labels.get("state", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["jingxiang_jobs", "queued"] == samples["jingxiang_jobs", "running"] == 0
    assert samples["jingxiang_jobs_ended_total", "done"] >= 1
    assert samples["jingxiang_job_seconds_total", ""] > 0
    assert samples["jingxiang_worker_ready", ""] == 1


def test_how_fast_workers_are_is_told(app: App) -> None:
    store = JobStore(Database(f"sqlite:///{app.outputs / 'jobs.sqlite3'}"))
    try:
        for speed in ("compiling", "compiled"):
            store.beat(WorkerStatus("zz", "loading", "smoke", speed=speed, speed_of="512x512x16"))
            told = [(each["speed"], each["speed_of"]) for each in json.loads(app.get("/api/queue")[1])["workers"]]
            assert told == [("", ""), (speed, "512x512x16")]
            lines = [line for line in app.get("/metrics")[1].splitlines() if "jingxiang_worker_compiled{" in line]
            assert len(lines) == 1, "nothing is said of a worker that has no use for it"
            assert 'worker="zz"' in lines[0]
            assert lines[0].endswith(f" {float(speed == 'compiled')}")
    finally:
        store.bury("zz")
        store.close()


def test_the_document_names_every_way_in(app: App) -> None:
    document = json.loads(app.get("/api/openapi.json")[1])
    assert sorted(document["paths"]) == [
        "/api/events", "/api/jobs", "/api/jobs/{number}", "/api/jobs/{number}/again", "/api/jobs/{number}/events",
        "/api/jobs/{number}/move", "/api/jobs/{number}/picture", "/api/jobs/{number}/pin",
        "/api/jobs/{number}/preview", "/api/jobs/{number}/retry",
        "/api/jobs/{number}/video", "/api/log/summary", "/api/models", "/api/models/{name}/estimate",
        "/api/models/{name}/load", "/api/models/{name}/tokens", "/api/queue",
    ]  # fmt: skip
    for path in ("/docs", "/redoc", "/api/docs"):  # those of FastAPI load their scripts from elsewhere
        assert "swagger" not in app.get(path)[1].lower()


def test_a_store_that_is_restarted_is_said_in_the_page_s_language(models: Path, tmp_path: Path) -> None:
    with postgres.database() as url, serving(models, tmp_path, env={"JINGXIANG_JOBS": url}) as app:
        app.wait_until_ready()
        with app.client(**{"accept-language": "zh-CN"}) as client, client.stream("GET", "/api/events") as stream:
            events = told(stream)
            assert [next(events)[0], next(events)[0]] == ["jobs", "status"]
            postgres.stop()
            try:
                trouble = next(each for name, each in events if name == "trouble")
            finally:
                postgres.start()
            assert trouble == {"message": "任务库没有响应；正在不断重试"}
            assert next(name for name, _ in events) == "jobs"


def test_users_see_their_own_and_who_is_in_charge_sees_all(models: Path, tmp_path: Path, photo: Path) -> None:
    passwords = tmp_path / "passwords"
    passwords.write_text("# who may come in\nli:first-password\nwang:second-password\n")
    passwords.chmod(0o600)
    arguments = ["--password-file", str(passwords), "--per-user", "2"]
    with serving(models, tmp_path, *arguments) as guarded:
        guarded.wait_until_ready()
        with guarded.client() as nobody:
            answer = nobody.get("/api/jobs")
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"].startswith("Basic ")
            assert nobody.post("/api/jobs", content=bytes(100)).status_code == 401
            for path in ("/metrics", "/api/queue", "/api/events", "/api/openapi.json"):
                assert nobody.get(path).status_code == (200 if path.endswith("json") else 401)
            assert nobody.get("/healthz").status_code == nobody.get("/readyz").status_code == 200
        li = guarded.client(authorization="Bearer first-password")
        wang = httpx.Client(base_url=guarded.url, auth=("wang", "second-password"), trust_env=False)
        wrong = httpx.Client(base_url=guarded.url, auth=("wang", "first-password"), trust_env=False)
        with li, wang, wrong:
            assert wrong.get("/api/jobs").status_code == 401

            def post(client: httpx.Client, **form: object) -> httpx.Response:
                data = {"prompt": "a cat", "preset": "fast"} | {name: str(value) for name, value in form.items()}
                return client.post("/api/jobs", files={"image": photo.read_bytes()}, data=data)

            job = post(wang, steps=100).json()["id"]
            second = post(wang, steps=100).json()["id"]
            full = post(wang)
            assert (full.status_code, full.json()["error"]) == (
                429, "you have 2 videos under way: wait for one, or cancel one",
            )  # fmt: skip
            own = post(li).json()["id"]
            assert [each["id"] for each in wang.get("/api/jobs").json()] == [job, second]
            assert {each["id"] for each in li.get("/api/jobs").json()} == {job, second, own}
            assert wang.get(f"/api/jobs/{own}").status_code == 404
            assert wang.delete(f"/api/jobs/{own}").status_code == 404
            assert wang.get(f"/api/jobs/{own}/video").status_code == 404
            assert wang.get(f"/api/jobs/{own}/events").status_code == 404
            for client, numbers in ((li, {job, second, own}), (wang, {job, second})):
                with client.stream("GET", "/api/events") as stream:
                    events = told(stream)
                    assert {each["id"] for each in next(events)[1]} == numbers
                    (listed,) = next(each for name, each in events if name == "status")["workers"]
                    (asked,) = client.get("/api/queue").json()["workers"]
                    assert listed["name"] == asked["name"]
                    assert (listed["name"] == "1") == (client is wang)
                    assert listed["total_bytes"] == asked["total_bytes"] > 0
            assert "there is no job" in wang.get(f"/api/jobs/{own}/preview").json()["error"]
            assert wang.post("/api/models/smoke/load").status_code == 403
            assert wang.post(f"/api/jobs/{second}/move", params={"position": 0}).status_code == 403
            assert li.post(f"/api/jobs/{own}/move", params={"position": 0}).status_code == 200
            assert li.delete(f"/api/jobs/{job}").status_code == 200
            assert wang.delete(f"/api/jobs/{second}").status_code == 200
        assert "password" not in guarded.log.read_text()


def test_a_fast_preview_again_in_standard(app: App, photo: Path) -> None:
    free(app)
    preview = app.ended(app.post(photo, seed=7, prompt="a cat", negative_prompt="blurry").json()["id"])
    with app.client() as client:
        answer = client.post(f"/api/jobs/{preview['id']}/again", params={"preset": "standard"})
        assert answer.status_code == 201
        again = answer.json()
        assert again["id"] != preview["id"]
        same = ("picture", "prompt", "negative_prompt", "seed", "model")
        assert {name: again[name] for name in same} == {name: preview[name] for name in same}
        assert (again["preset"], again["steps"]) == ("standard", 10)
        assert app.ended(again["id"])["state"] == "done"
        assert client.post("/api/jobs/none/again").status_code == 404


def test_a_picture_for_lists_is_small(app: App, photo: Path) -> None:
    job = app.post(photo).json()
    with app.client() as client:
        small = client.get(f"/api/jobs/{job['id']}/picture", params={"size": 100})
        assert (small.headers["content-type"], "immutable" in small.headers["cache-control"]) == ("image/jpeg", True)
        assert Image.open(io.BytesIO(small.content)).size == (100, 75)
        assert client.get(f"/api/jobs/{job['id']}/picture", params={"size": 5000}).status_code == 400
