"""app.page.form: what the page's form does, with a real store, and workers of which only the status is there"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from app import provenance, video
from app.access import Access
from app.desk import Desk, Quota
from app.examples import load
from app.jobs.base import Limits
from app.jobs.database import Database
from app.jobs.store import JobStore
from app.media import Media
from app.page.form import CUSTOM, FAST, Filled, Form
from jingxiang import models as catalog
from jingxiang.presets import STANDARD
from tests.test_desk import WORKER

CATALOG = catalog.load(Path(__file__).resolve().parent.parent / "app" / "models.toml")
FIELDS = len(fields(Filled))


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    store = JobStore(Database(f"sqlite:///{tmp_path}/jobs.sqlite3"))
    store.beat(WORKER)
    yield Desk(store, Media(str(tmp_path / "media")), CATALOG, "i2vgen-xl", crew=None, limits=Limits(2), quota=Quota())
    store.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shown").mkdir()
    return tmp_path / "shown"


@pytest.fixture
def form(desk: Desk, tmp_path: Path, folder: Path) -> Form:
    return Form(desk, Access({}), tmp_path, folder, load())


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the page shows for a moment."""
    found: list[str] = []
    for name in ("Info", "Warning"):
        monkeypatch.setattr(gr, name, lambda text, **_: found.append(text))
    return found


def asked(user: str = "", language: str = "en") -> Any:
    return SimpleNamespace(headers={"accept-language": language}, username=user)


def uploaded(folder: Path, name: str, data: bytes) -> tuple[str, None]:
    place = folder / "0123456789abcdef" / name
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(data)
    return str(place), None


def photo(shade: int = 0) -> bytes:
    png = io.BytesIO()
    Image.new("RGB", (640, 360), (shade, 90, 90)).save(png, "PNG")
    return png.getvalue()


def plain(values: list[Any]) -> list[Any]:
    """Fields as the browser would give them back."""
    return [each.get("value") if isinstance(each, dict) and "__type__" in each else each for each in values]


def opened(form: Form, draft: Any = None, **request: str) -> list[Any]:
    return plain(form.opened(draft, asked(**request)))[:FIELDS]


def filled(form: Form, **changes: Any) -> list[Any]:
    """The fields of a page that has just been opened, some of them changed."""
    values = (
        dict(zip((each.name for each in fields(Filled)), opened(form), strict=True)) | {"prompt": "a cat"} | changes
    )
    return list(values.values())


def greyed(choices: dict[str, Any]) -> dict[str, str]:
    return {option["value"]: option["reason"] for option in choices["options"] if option["reason"]}


def test_a_new_page_has_what_suits_the_card(form: Form) -> None:
    model, pictures, prompt, _, preset, size, frames, steps, fps, guidance, seed = opened(form)
    assert (model, pictures, prompt, seed) == ("i2vgen-xl", None, "", "")
    assert preset == "24gb"  # see `WORKER`: 24 GiB
    assert (frames, steps, fps, guidance) == (24, 60, 12, 10.0)
    offers = form.opened(None, asked())[FIELDS]
    assert size in {option["value"] for option in offers["size"]["options"]}
    assert preset in {option["value"] for option in offers["preset"]["options"]}


def test_what_does_not_fit_is_grey_with_the_reason_in_the_language_of_whoever_looks(form: Form) -> None:
    values = form.opened(None, asked())
    sizes = values[FIELDS]["size"]
    grey = greyed(sizes)
    assert grey
    assert all("needs" in reason and "GB" in reason for reason in grey.values())
    assert list(grey) != [option["value"] for option in sizes["options"]], "not all of them"
    chinese = greyed(form.opened(None, asked(language="zh-CN"))[FIELDS]["size"])
    assert list(chinese) == list(grey)
    assert all("需要" in reason for reason in chinese.values())


def test_estimates_follow_the_settings(form: Form) -> None:
    offers, standard, _, fast, _, custom, own, draft = form.changed(asked(), *filled(form, frames=8, size="448x256"))
    assert "448x256" in [option["value"] for option in offers["size"]["options"]]
    assert (standard["interactive"], fast["interactive"], custom["interactive"]) == (True, True, True)
    assert "448x256" in own
    assert "8 frames" in own
    assert "time not known yet" in own
    assert draft["frames"] == 8
    *_, custom, own, _ = form.changed(asked(), *filled(form, frames=32, size="1280x1280"))
    assert custom["interactive"] is False
    assert "not enough memory" in own


def test_unwise_settings_are_possible_and_said(form: Form) -> None:
    values = filled(form, frames=8, size="448x256", steps=90)
    *_, custom, own, _ = form.changed(asked(), *values)
    assert custom["interactive"] is True
    assert "steps 90: better from 10 to 60" in own


def test_a_job_is_handed_in_with_a_preset_or_the_forms_own_settings(form: Form, desk: Desk, folder: Path) -> None:
    pictures = [uploaded(folder, "a.png", photo())]
    own = filled(form, pictures=pictures, negative="blurry", seed="7", frames=8, size="448x256")
    assert form.handed_in(FAST)(asked(), *own) == gr.skip(), "it stays in the form"
    form.handed_in(CUSTOM)(asked(), *own)
    fast, custom = (job.order for job in desk.store.jobs())
    assert (fast.preset_name, fast.preset, fast.seed, fast.negative) == (
        FAST, CATALOG.model("i2vgen-xl").preset(FAST), 7, "blurry",
    )  # fmt: skip
    assert (custom.preset_name, custom.preset.width, custom.preset.frames, custom.preset.steps) == ("24gb", 448, 8, 60)


def test_many_pictures_become_many_jobs_and_those_without_room_stay(
    form: Form, desk: Desk, folder: Path, told: list[str]
) -> None:
    pictures = [uploaded(folder, f"{shade}.png", photo(shade)) for shade in (1, 2, 3)]
    left = form.handed_in(FAST)(asked(), *filled(form, pictures=pictures))
    assert left == pictures[2:]  # two may wait
    assert len({job.order.picture for job in desk.store.jobs()}) == 2
    assert told[-1].startswith("2 of 3 are handed in, the others stay here: the queue is full")
    with pytest.raises(gr.Error, match="the queue is full"):
        form.handed_in(FAST)(asked(), *filled(form, pictures=left))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "choose a picture first"),
        ({"prompt": " "}, "the prompt is empty"),
        ({"seed": "x"}, "the seed must be a whole number, not 'x'"),
        ({"seed": "99999999999"}, "the seed must be between 0 and 4294967295"),
        ({"frames": 99}, "frames: should be from 1 to 32"),
    ],
)
def test_what_cannot_be_made_is_said(form: Form, folder: Path, changes: dict[str, Any], message: str) -> None:
    pictures = [uploaded(folder, "a.png", photo())] if changes else None
    with pytest.raises(gr.Error) as caught:
        form.handed_in(CUSTOM)(asked(), *filled(form, pictures=pictures, **changes))
    assert message in str(caught.value.message)


def test_a_draft_comes_back_and_a_bad_one_does_no_harm(form: Form, folder: Path, tmp_path: Path) -> None:
    picture = uploaded(folder, "a.png", photo())
    values = filled(form, pictures=[picture], prompt="a cat", negative="blurry", frames=8, seed="5")
    draft = json.loads(json.dumps(form.changed(asked(), *values)[-1]))
    assert str(tmp_path) not in json.dumps(draft)
    again = opened(form, draft)
    assert (again[1], again[2], again[3], again[6], again[10]) == ([picture], "a cat", "blurry", 8, "5")
    secret = tmp_path / "secret.png"
    secret.write_bytes(photo())
    (folder / "link").mkdir()
    (folder / "link" / "x.png").symlink_to(secret)
    names = ["../secret.png", "/etc/passwd", "x/../../secret.png", "link/x.png", 5, ""]
    bad: list[Any] = [
        {**draft, "pictures": names},
        {"model": "none"},
        [],
        "x",
        {**draft, "width": "x", "preset": "none"},
    ]
    for each in bad:
        found = opened(form, each)
        assert found[0] == "i2vgen-xl"
        assert (found[1] or []) in ([], [picture])
    assert opened(form, {**draft, "pictures": names})[1] is None


def test_a_draft_is_of_the_user_who_made_it(desk: Desk, tmp_path: Path, folder: Path) -> None:
    """Two people may use one browser, one after the other."""
    form = Form(desk, Access({"boss": "password1", "ann": "password2"}), tmp_path, folder, load())
    values = filled(form, prompt="a cat", pictures=[uploaded(folder, "a.png", photo())])
    draft = form.changed(asked("ann"), *values)[-1]
    assert opened(form, draft, user="ann")[2] == "a cat"
    assert opened(form, draft, user="boss")[1:3] == [None, ""]


def test_a_picture_that_is_bad_or_gone_stops_neither_those_before_it_nor_the_form(
    form: Form, desk: Desk, folder: Path, told: list[str]
) -> None:
    pictures = [uploaded(folder, "a.png", photo()), uploaded(folder, "<b>.png", b"no picture")]
    assert form.handed_in(FAST)(asked(), *filled(form, pictures=pictures)) == pictures[1:]
    assert len(desk.store.jobs()) == 1
    assert told[-1].startswith("1 of 2 are handed in, the others stay here: &lt;b&gt;.png: is not a picture")
    Path(pictures[0][0]).unlink()
    values = filled(form, pictures=pictures[:1])
    assert form.changed(asked(), *values)[0]["size"]["options"]
    with pytest.raises(gr.Error, match="the picture is not here any more"):
        form.handed_in(FAST)(asked(), *values)


def test_what_is_typed_or_put_in_meanwhile_stays(form: Form) -> None:
    found = dict(zip((each.name for each in fields(Filled)), form.preset_chosen(asked(), *filled(form)), strict=True))
    assert [found[name] for name in ("pictures", "seed")] == [gr.skip()] * 2
    assert all("value" not in found[name] for name in ("prompt", "negative"))


def test_a_page_that_was_never_filled_says_so(form: Form) -> None:
    empty = [None, None, "", "", "", "", 1, 1, 1, 1, ""]
    assert form.changed(asked(), *empty) == [gr.skip()] * 8
    assert form.typed(asked(), *empty) == [gr.skip()] * 2
    with pytest.raises(gr.Error, match="load it again"):
        form.handed_in(FAST)(asked(), *empty)


def made(form: Form, desk: Desk, folder: Path, user: str = "") -> str:
    """A video's file, as somebody has downloaded it, of a job that was made here."""
    pictures = [uploaded(folder, "a.png", photo(9))]
    values = filled(form, pictures=pictures, negative="blurry", seed="123", frames=8, size="448x256")
    form.handed_in(CUSTOM)(asked(user), *values)
    order = desk.store.jobs()[0].order
    how = provenance.of(CATALOG.model("i2vgen-xl"), picture=order.picture, seed=order.seed, settings=order.settings())
    file = folder / "0123456789abcdef" / "video.mp4"
    frames = np.zeros((8, 64, 64, 3), np.uint8)
    video.write(frames, file, fps=8, made=how, metadata=True, labelled=False, producer="")
    return str(file)


def test_a_video_that_is_dropped_brings_back_everything(form: Form, desk: Desk, folder: Path, told: list[str]) -> None:
    file = made(form, desk, folder)
    values = filled(form, pictures=[(file, None)], prompt="")
    back = plain(form.dropped(asked(), *values))
    assert (back[2], back[3], back[6], back[5], back[10]) == ("a cat", "blurry", 8, "448x256", "123")
    assert told == ["the video's settings are in the form, with its seed 123"]
    # handed in again it is the same order, although its picture comes back as another file
    form.handed_in(CUSTOM)(asked(), *back)
    first, second = (job.order for job in desk.store.jobs())
    assert first == second


def test_a_picture_of_somebody_else_does_not_come_back(
    desk: Desk, tmp_path: Path, folder: Path, told: list[str]
) -> None:
    access = Access({"boss": "password1", "ann": "password2", "bob": "password3"})
    form = Form(desk, access, tmp_path, folder, load())
    file = made(form, desk, folder, "ann")
    values = filled(form, pictures=[(file, None)])
    assert plain(form.dropped(asked("bob"), *values))[1] is None
    assert "the picture that it was made from is not here: add it" in told
    for user in ("ann", "boss"):
        assert plain(form.dropped(asked(user), *values))[1]
    number = desk.store.jobs()[0].id
    with pytest.raises(gr.Error, match="there is no job"):
        form.reused(SimpleNamespace(id=number), asked("bob"))
    assert plain(form.reused(SimpleNamespace(id=number), asked("ann")))[10] == "123"


def test_a_file_with_the_name_of_a_picture_is_not_taken_for_it(form: Form, desk: Desk, folder: Path) -> None:
    made(form, desk, folder)
    digest = desk.store.jobs()[0].order.picture
    other = uploaded(folder, f"{digest}.png", photo(200))
    form.handed_in(FAST)(asked(), *filled(form, pictures=[other]))
    assert desk.store.jobs()[1].order.picture != digest


def test_a_strange_video_is_said_and_pictures_stay(form: Form, folder: Path, told: list[str]) -> None:
    strange = uploaded(folder, "x.mp4", b"no video")
    picture = uploaded(folder, "a.png", photo())
    back = plain(form.dropped(asked(), *filled(form, pictures=[strange, picture])))
    assert back[1] == [picture]
    assert told == ["that video says nothing of how it was made here"]


def test_the_hint_counts_and_warns(form: Form) -> None:
    assert (
        "the model understands English only: say it in English"
        in form.typed(asked(), *filled(form, prompt="一只猫"))[0]
    )
    assert "<b>" not in form.typed(asked(), *filled(form, prompt="<b>" * 200))[0]


def test_another_model_and_another_preset_bring_their_settings(form: Form) -> None:
    values = filled(form, preset=FAST)
    assert plain(form.preset_chosen(asked(), *values))[6:8] == [8, 30]
    found = form.model_chosen(asked(), *filled(form, model="smoke"))
    smoke = CATALOG.model("smoke")
    assert found[6]["maximum"] == smoke.limits.frames
    assert plain(found)[7] == smoke.preset(STANDARD).steps


def test_pictures_that_no_form_has_used_for_long_go(form: Form, folder: Path) -> None:
    old, new = (Path(uploaded(folder, name, photo())[0]) for name in ("old.png", "new.png"))
    own = folder / "fedcba9876543210"
    own.mkdir()
    old = old.rename(own / "old.png")
    for path in (old, own):
        os.utime(path, (0, 0))
    form.opened(None, asked())
    assert (old.exists(), own.exists(), new.exists()) == (False, False, True)


def test_examples_and_the_log(form: Form, desk: Desk, tmp_path: Path, folder: Path) -> None:
    pictures, prompt = form.exemplified(SimpleNamespace(name="boat"), asked())
    with Image.open(pictures[0][0]) as shown:
        assert shown.width > 500
    assert "boat" in prompt
    assert "jingxiang" in form.summarized(asked())
    guarded = Form(desk, Access({"boss": "password1", "ann": "password2"}), tmp_path, folder, ())
    assert guarded.summarized(asked("ann")) == "only for who is in charge"
    for user, is_in_charge in (("ann", False), ("boss", True)):
        assert [each["visible"] for each in guarded.opened(None, asked(user))[-2:]] == [is_in_charge] * 2
