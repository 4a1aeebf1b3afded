"""The weights of a model, read by threads straight to where they will be.

Imports torch, but neither diffusers nor transformers: those are imported meanwhile, and the GPU is woken up.
"""

from __future__ import annotations

import json
import math
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import torch
from safetensors import safe_open

from app import logs, readahead

INDEX = "model_index.json"
LIBRARIES = ("diffusers", "transformers")  # where the classes that a folder names may come from
AUTO = "auto"
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
OFFLOADED = ("offload", "groups")  # rungs on which the weights are at home on the CPU, see `ladder`
READERS = 8
SHARE_BYTES = 256 << 20  # what one reader takes of a file at a time

Tensors = dict[str, torch.Tensor]


class Reading:
    """Begins at once with the parts that the folder's index names. Closing it forgets what nobody has taken.

    `dtype_name`: fp16, bf16 or fp32; `home`: where the tensors are when they have been read.
    """

    def __init__(self, folder: Path, *, dtype: str, rung: str) -> None:
        cuda = torch.cuda.is_available()
        self.folder = folder
        self.dtype_name = ("fp16" if cuda else "fp32") if dtype == AUTO else dtype
        self.dtype = DTYPES[self.dtype_name]
        self.home = device() if cuda and rung not in OFFLOADED else torch.device("cpu")
        self._pool = ThreadPoolExecutor(READERS, "weights")
        self._begun: dict[str, list[Future[Tensors]]] = {}
        for name in self._indexed():
            self.begin(name)

    def __enter__(self) -> Reading:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._begun.clear()

    def take(self, part: str) -> Tensors:
        """All tensors of a part, when they are there. They are the caller's now. May raise anything."""
        self.begin(part)
        found = [each.result() for each in self._begun[part]]
        del self._begun[part]
        if not found:
            raise FileNotFoundError(f"{part}: no file of weights in safetensors")
        return {name: tensor for each in found for name, tensor in each.items()}

    def begin(self, part: str) -> None:
        """Read a part, if that has not begun yet; large files by several threads."""
        if part in self._begun:
            return
        self._begun[part] = []
        for file in readahead.weights(self.folder / part):
            shares = _shares(file)
            self._begun[part] += [self._pool.submit(self._tensors, file, share, shares) for share in range(shares)]
        for each in self._begun[part]:
            each.add_done_callback(self._tell)

    def _indexed(self) -> list[str]:
        """Parts of the libraries that have weights; none where there is no index: whoever loads the model says so."""
        try:
            index = json.loads((self.folder / INDEX).read_text(encoding="utf-8"))
            return [name for name, value in index.items() if isinstance(value, list) and value[0] in LIBRARIES]
        except (OSError, ValueError, AttributeError, LookupError):
            return []

    def _tell(self, _: Future[Tensors]) -> None:
        """In the log, when all has been read; once more if something is begun after that."""
        begun = [each for part in list(self._begun.values()) for each in list(part)]
        if all(each.done() and not each.cancelled() and each.exception() is None for each in begun):
            logs.event(logs.REACHED, phase="read")

    def _tensors(self, file: Path, share: int, shares: int) -> Tensors:
        """Numbers with a fraction in the dtype that is wanted."""
        found = {}
        with safe_open(str(file), "pt", device=str(self.home)) as opened:
            for name in list(opened.keys())[share::shares]:
                tensor = opened.get_tensor(name)
                found[name] = tensor.to(self.dtype) if tensor.is_floating_point() else tensor
        return found


def _shares(file: Path) -> int:
    """How many readers a file has. What is wrong with it is said by them."""
    try:
        return max(1, math.ceil(file.stat().st_size / SHARE_BYTES))
    except OSError:
        return 1


def device() -> torch.device:
    """Where models run. A GPU is not woken up for the answer."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device() if torch.cuda.is_initialized() else 0)
