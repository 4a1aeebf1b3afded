"""A pipeline of diffusers from its folder, its parts read at the same time and straight to where they will be.

`from_pretrained` cannot run in several threads: while it builds a module it changes torch for the whole process (the
default dtype, how modules register parameters, `torch.nn.init`), and transformers does the same. So only the files are
read in threads (see `reading`), which make no modules; the modules are built here, one after the other, without memory
of their own, and take over the tensors that were read. Both libraries' own renaming of old keys is kept.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import accelerate
import torch
from transformers import PreTrainedModel

from app import garbage
from app.adapters.reading import INDEX, LIBRARIES, Reading

LOCK = threading.Lock()  # one model is built at a time in a process: see above


@dataclass(frozen=True)
class Loading:
    """How one model is loaded. `parts`: those in its folder that its index does not name."""

    read: Reading
    parts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.read.folder

    def networks(self) -> dict[str, Any]:
        """All parts with weights, on the device. May raise anything that is wrong with the folder.

        Weights that a part lacks are an error: the libraries would go on with random numbers.
        """
        kinds = {**_kinds(self.folder), **self.parts}
        for name in self.parts:
            self.read.begin(name)
        return {name: self._network(kind, name) for name, kind in kinds.items()}

    def pipeline(self, kind: Any, networks: Mapping[str, Any], **arguments: Any) -> Any:
        """A pipeline of that class: these parts and what has no weights."""
        options = {"dtype": self.read.dtype, "local_files_only": True, "use_safetensors": True}
        return kind.from_pretrained(str(self.folder), **options, **networks, **arguments)

    @contextlib.contextmanager
    def building(self) -> Iterator[None]:
        """What modules are made on and in; what they compute for themselves is so, too, as in `from_pretrained`."""
        before = torch.get_default_dtype()
        torch.set_default_dtype(self.read.dtype)
        try:
            with self.read.home:
                yield
        finally:
            torch.set_default_dtype(before)

    def _network(self, kind: Any, name: str) -> Any:
        folder = self.folder / name
        if issubclass(kind, PreTrainedModel):
            config = kind.config_class.from_pretrained(str(folder), local_files_only=True)
            made, report = kind.from_pretrained(
                None, config=config, state_dict=self.read.take(name), dtype=self.read.dtype,
                device_map={"": self.read.home}, output_loading_info=True,
            )  # fmt: skip
            missing = report["missing_keys"]
        else:
            config = kind.load_config(str(folder), local_files_only=True)
            with self.building(), accelerate.init_empty_weights():
                made = kind.from_config(config)
            tensors = self.read.take(name)
            made._fix_state_dict_keys_on_load(tensors)
            made.load_state_dict(tensors, strict=False, assign=True)
            missing = {each for each, weight in made.named_parameters() if weight.is_meta}
        if missing:
            raise ValueError(f"{name}: {min(missing)} is not there")
        return made.to(self.read.home).eval()


def free() -> None:
    """Give back what nothing refers to any more: pipelines hold themselves in circles."""
    garbage.collect()
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
