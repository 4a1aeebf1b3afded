"""How fast a worker's model runs: with what was compiled for just this card and size, as soon as that is there.

Without it, videos are made at once all the same, and it is compiled in the background by a child of the worker, which
stands back behind the videos and ends with the worker. What goes wrong with that costs speed, never a video.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO, Literal

from app import cards, logs, memory
from app.artifacts import Shelf, is_of_preset
from app.jobs.base import Speed
from app.texts import FOLDER, tr
from jingxiang import console
from jingxiang.compiled import SHAPE
from jingxiang.presets import STANDARD

if TYPE_CHECKING:
    from pathlib import Path

    from app.adapters.base import Model
    from app.artifacts import Artifact, Key
    from app.generation import Order
    from jingxiang.models import Preset

APP = (sys.executable, "-m", "app")
NEEDED_BYTES = 5_500_000_000  # of a GPU, to compile: 5 GB were measured. Before that, a short video is made
LOOK_S = 0.1  # between two looks at whether the child is still wanted
GONE_S = 5.0  # how long is waited for processes that were killed: one that waits for a driver takes a while to die
Told = Callable[[Speed, str], None]
Doubt = Literal["writing", "memory"]


@dataclass
class _Child:
    """A program that compiles for `key`; `said` is its stderr, `unwanted`: it is to be ended, or was; `reason`: the
    last thing that it said.
    """

    key: Key
    preset: Preset
    process: subprocess.Popen[bytes]
    said: BinaryIO
    unwanted: threading.Event = field(default_factory=threading.Event)
    reason: str = ""

    def attend(self, is_draining: Callable[[], bool]) -> None:
        """Until it has ended; at once when it is not wanted any more."""
        with self.process, self.said:  # it ends, too, when its stdin does: then we were killed
            while self.process.poll() is None:
                if self.unwanted.wait(LOOK_S) or is_draining():
                    self.unwanted.set()
                    self._kill()
            if self.process.returncode:
                self._kill()  # what it has started, if it died
            self.said.seek(0)
            lines = self.said.read().decode("utf-8", "replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "")
        self.reason = logs.plain(last).strip() or tr("exit code {code}", code=self.process.returncode)

    def _kill(self) -> None:
        """It, and all that it has started, which give back their memory only when they are gone."""
        late = time.monotonic() + GONE_S
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            while time.monotonic() < late:
                os.killpg(self.process.pid, 0)
                time.sleep(LOOK_S / 10)


class Booster:
    """Of one worker: `told` hears how fast its model runs, and for which size that holds."""

    def __init__(self, shelf: Shelf, models: Path, *, told: Told, is_draining: Callable[[], bool]) -> None:
        self._shelf = shelf
        self._models = models
        self._told = told
        self._is_draining = is_draining
        self._adopted: set[Key] = set()  # by the model that is loaded
        self._found: dict[Key, Artifact] = {}  # whole, and not adopted yet
        self._made: set[Key] = set()  # sizes that videos were made in
        self._given_up: set[Key] = set()  # could not be loaded or made: not tried again in this process
        self._prepared: Model | None = None
        self._doubts: set[Doubt] = set()  # that were said
        self._child: _Child | None = None
        self._attending: threading.Thread | None = None
        self._last: tuple[Speed, str] = ("", "")

    # Before a lot

    def ready(self, model: Model, preset: Preset, batch: int) -> None:
        """Let the model use what there is; for several videos at once nothing is compiled."""
        key = model.compilation(preset)
        if key is None:
            self._tell("", "")
            return
        if batch == 1:
            self._adopt(model, key)
        self._tell("compiled" if batch == 1 and key in self._adopted else "eager", key.shape)

    def prepare(self, model: Model) -> None:
        """While there is nothing to do: load what most videos will want, which takes longer than the model did."""
        if model is not self._prepared and not self._is_draining():
            self._prepared = model
            key = model.compilation(model.spec.preset(STANDARD))
            if key is not None:
                self._adopt(model, key)

    def suits(self, model: Model, preset: Preset, batch: int) -> bool:
        """Whether so many at once are not slower than one by one: they are where that is compiled."""
        key = model.compilation(preset)
        return batch == 1 or key is None or not self._has(key)

    def _has(self, key: Key) -> bool:
        """Whether it is, or will be, used. All of an artifact is read for that, so it is remembered."""
        if key in self._given_up:
            return False
        if key not in self._adopted and key not in self._found and (found := self._shelf.find(key)):
            self._found[key] = found
        return key in self._adopted or key in self._found

    def _adopt(self, model: Model, key: Key) -> None:
        if key in self._adopted or not self._has(key):
            return
        found = self._found.pop(key)
        try:
            scratch = self._shelf.scratch()
            with self._shelf.adopting(key):
                model.adopt(found, scratch)
        except Exception as error:  # torch may raise anything for what it cannot use
            self._give_up(key, error)
            return
        self._adopted.add(key)
        logs.event(logs.REACHED, model=key.model, phase="adopted")
        console.line("speed", tr("{shape}: compiled code is used", shape=key.shape))

    def _give_up(self, key: Key, error: Exception) -> None:
        self._given_up.add(key)
        console.warn(tr("{shape}: compiled code is left aside: {reason}", shape=key.shape,
                        reason=logs.plain(str(error))))  # fmt: skip
        logs.event(logs.TROUBLE, model=key.model, error=error)

    # After a lot

    def follow(self, model: Model, order: Order) -> None:
        """Begin to compile for what was just made, if that is wanted and possible."""
        key = model.compilation(order.preset)
        if key is None:
            return
        is_wanted = key in self._made or is_of_preset(model.spec, key)  # a size of one's own is often tried just once
        self._made.add(key)
        if not is_wanted or self._child is not None or self._is_draining() or not self._is_lacking(key):
            return
        if not self._shelf.is_writable:
            self._doubt("writing", tr("{folder} cannot be written, so nothing is compiled: JINGXIANG_ARTIFACTS or "
                                      "--artifacts names another one", folder=self._shelf.folder))  # fmt: skip
            return
        space = cards.of(model.uuid)
        video = memory.CONTEXT_BYTES + round(model.estimate(order.preset, 1) * memory.RESERVE)
        needed = max(NEEDED_BYTES, video)
        if space is not None and space.is_gpu and space.free_bytes < needed:
            text = tr("nothing is compiled while less than {needed} of the GPU are free; {free} are",
                      needed=console.size(needed), free=console.size(space.free_bytes))  # fmt: skip
            self._doubt("memory", text)
            return
        self._begin(model, order, key)

    def _is_lacking(self, key: Key) -> bool:
        return key not in self._given_up and not self._has(key) and not self._shelf.is_aside(key)

    def _doubt(self, kind: Doubt, text: str) -> None:
        if kind not in self._doubts:
            self._doubts.add(kind)
            console.warn(text)

    def _begin(self, model: Model, order: Order, key: Key) -> None:
        preset, spec = order.preset, model.spec
        name = order.preset_name if order.preset_name in spec.presets else STANDARD  # it may have gone from the catalog
        changes = [each for each in SHAPE if getattr(preset, each) != getattr(spec.preset(name), each)]
        argv = [
            *APP, "warm", "--child", "--model", spec.name, "--models", str(self._models),
            "--artifacts", str(self._shelf.folder), "--dtype", model.dtype_name, "--preset", name,
            *(f"--{each}={getattr(preset, each)}" for each in changes),
        ]  # fmt: skip
        said = tempfile.TemporaryFile()  # noqa: SIM115 (read when the child has ended)
        try:
            process = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said, cwd=FOLDER.parent,
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            said.close()
            self._give_up(key, error)
            return
        self._child = child = _Child(key, preset, process, said)
        self._attending = threading.Thread(target=child.attend, args=(self._is_draining,), daemon=True, name="compile")
        self._attending.start()
        console.line("speed", tr("{shape}: is compiled in the background; the next videos will be faster",
                                 shape=key.shape))  # fmt: skip
        self._tell("compiling", key.shape)

    # Between lots

    def tend(self, model: Model | None) -> None:
        """Use what has been compiled meanwhile, or say why it has not."""
        if self._attending is None or self._attending.is_alive():
            return
        child, self._child, self._attending = self._child, None, None
        if child is None or child.unwanted.is_set():
            return
        if child.process.returncode == 0 and self._shelf.find(child.key) is not None:
            if model is not None and model.compilation(child.preset) == child.key:
                self._adopt(model, child.key)
        else:
            self._given_up.add(child.key)
            console.warn(tr("{shape}: could not be compiled; videos are made without it: {reason}",
                            shape=child.key.shape, reason=child.reason))  # fmt: skip
            logs.event(logs.TROUBLE, model=child.key.model, reason=child.reason)
        if model is None:
            self._tell("", "")
        else:
            self._tell("compiled" if child.key in self._adopted else "eager", child.key.shape)

    @property
    def is_compiling(self) -> bool:
        return self._child is not None

    def end(self) -> None:
        """Compile no more: the memory that it took is free afterwards."""
        if self._child is not None and self._attending is not None:
            self._child.unwanted.set()
            self._attending.join()
            self._child, self._attending = None, None
            self._tell("eager", self._last[1])

    def forget(self) -> None:
        """The model is gone, and with it what it had adopted."""
        self._adopted.clear()
        self._found.clear()
        self._prepared = None
        self._tell("", "")

    def _tell(self, speed: Speed, shape: str) -> None:
        """What is being compiled is told as long as it is."""
        if self._child is not None:
            speed, shape = "compiling", self._child.key.shape
        if (speed, shape) != self._last:
            self._last = (speed, shape)
            self._told(speed, shape)
