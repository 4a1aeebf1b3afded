"""A pipeline of diffusers from its folder, its parts read at the same time and straight to where they will be.

`from_pretrained` cannot run in several threads: while it builds a module it changes torch for the whole process (the
default dtype, how modules register parameters, `torch.nn.init`), and transformers does the same. So only the files are
read in threads, which make no modules; the modules are built here, one after the other, without memory of their own,
and take over the tensors that were read. Both libraries' own renaming of old keys is kept.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import math
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import accelerate
import torch
from safetensors import safe_open
from transformers import PreTrainedModel

INDEX = "model_index.json"
LIBRARIES = ("diffusers", "transformers")  # where the classes that a folder names may come from
STEMS = ("diffusion_pytorch_model", "model")  # of files of weights, in the one and in the other
HALF = ".fp16"
READERS = 8
SHARE_BYTES = 256 << 20  # what one reader takes of a file at a time
LOCK = threading.Lock()  # one model is built at a time in a process: see above

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Loading:
    """How and from where one model is loaded. `parts`: those in its folder that its index does not name."""

    folder: Path
    dtype: torch.dtype
    device: torch.device
    parts: Mapping[str, Any] = field(default_factory=dict)

    def networks(self) -> dict[str, Any]:
        """All parts with weights, on the device. May raise anything that is wrong with the folder.

        Weights that a part lacks are an error: the libraries would go on with random numbers.
        """
        kinds = {**_kinds(self.folder), **self.parts}
        with ThreadPoolExecutor(READERS, "weights") as pool:
            read = {name: self._read(self.folder / name, pool) for name in kinds}
            return {name: self._network(kinds[name], self.folder / name, read.pop(name)) for name in kinds}

    def pipeline(self, kind: Any, networks: Mapping[str, Any], **arguments: Any) -> Any:
        """A pipeline of that class: these parts and what has no weights."""
        return kind.from_pretrained(
            str(self.folder), dtype=self.dtype, local_files_only=True, use_safetensors=True, **networks, **arguments
        )

    @contextlib.contextmanager
    def building(self) -> Iterator[None]:
        """What modules are made on and in; what they compute for themselves is so, too, as in `from_pretrained`."""
        before = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)
        try:
            with self.device:
                yield
        finally:
            torch.set_default_dtype(before)

    def _network(self, kind: Any, folder: Path, read: list[Future[Tensors]]) -> Any:
        if issubclass(kind, PreTrainedModel):
            config = kind.config_class.from_pretrained(str(folder), local_files_only=True)
            made, report = kind.from_pretrained(
                None, config=config, state_dict=_together(read), dtype=self.dtype, device_map={"": self.device},
                output_loading_info=True,
            )  # fmt: skip
            missing = report["missing_keys"]
        else:
            config = kind.load_config(str(folder), local_files_only=True)
            with self.building(), accelerate.init_empty_weights():
                made = kind.from_config(config)
            tensors = _together(read)
            made._fix_state_dict_keys_on_load(tensors)
            made.load_state_dict(tensors, strict=False, assign=True)
            missing = {name for name, weight in made.named_parameters() if weight.is_meta}
        if missing:
            raise ValueError(f"{folder.name}: {min(missing)} is not there")
        return made.to(self.device).eval()

    def _read(self, folder: Path, pool: ThreadPoolExecutor) -> list[Future[Tensors]]:
        """All tensors of a part, as they will be there; large files by several threads."""
        found = []
        for file in _files(folder):
            with safe_open(str(file), "pt") as opened:
                names = list(opened.keys())
            shares = math.ceil(file.stat().st_size / SHARE_BYTES)
            found += [pool.submit(self._tensors, file, names[share::shares]) for share in range(shares)]
        return found

    def _tensors(self, file: Path, names: list[str]) -> Tensors:
        """Numbers with a fraction in the dtype that is wanted."""
        found = {}
        with safe_open(str(file), "pt", device=str(self.device)) as opened:
            for name in names:
                tensor = opened.get_tensor(name)
                found[name] = tensor.to(self.dtype) if tensor.is_floating_point() else tensor
        return found


def free() -> None:
    """Give back what nothing refers to any more: pipelines hold themselves in circles."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _kinds(folder: Path) -> dict[str, Any]:
    """The classes of the networks that a folder's index names, by part."""
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    found = {}
    for name, value in index.items():
        if isinstance(value, list) and value[0] in LIBRARIES and (folder / name).is_dir():
            made = getattr(importlib.import_module(value[0]), value[1])
            if isinstance(made, type) and issubclass(made, torch.nn.Module):
                found[name] = made
    return found


def _together(read: list[Future[Tensors]]) -> Tensors:
    return {name: tensor for each in read for name, tensor in each.result().items()}


def _files(folder: Path) -> list[Path]:
    """A part's files of weights: those in fp16 if there are any. One, or several numbered ones."""
    files = [file for file in sorted(folder.glob("*.safetensors")) if file.name.startswith(STEMS)]
    half = [file for file in files if HALF in file.name]
    found = half or files
    if not found:
        raise FileNotFoundError(f"{folder.name}: no file of weights in safetensors")
    return found
