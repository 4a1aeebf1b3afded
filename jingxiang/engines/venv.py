"""The `venv` engine: a virtual environment of this machine's own Python, for where no conda channel can be reached."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from jingxiang import process, uv_client
from jingxiang.conda_packages import CondaFiles
from jingxiang.errors import JingxiangError
from jingxiang.language import tr
from jingxiang.wheels import UNPACKED


class PythonMissing(JingxiangError):
    """This machine has no Python of the version that the environment is locked for."""

    exit_code = 2

    def __init__(self, python: str) -> None:
        super().__init__(
            tr("the app's environment is locked for Python {python}, which this machine does not have", python=python),
            hints=("python3 tasks.py setup --engine mamba", f"apt-get install python{python}"),
        )


@dataclass(frozen=True)
class Venv:
    """`version`: of the Python to take."""

    version: str
    name: str = "venv"
    files: CondaFiles | None = None

    def check(self) -> None:
        """Raise `PythonMissing` unless this machine has such a Python. One on PATH is believed until it is used: to ask
        uv takes half a second."""
        if not shutil.which(f"python{self.version}"):
            self._find()

    def make(self, folder: Path, final: Path, workshop: Path) -> None:
        made = uv_client.make_environment(folder, self.version, cache=workshop / UNPACKED)
        if made.code:
            self._find()
            raise process.ProcessFailed("uv venv", made)

    def _find(self) -> None:
        if uv_client.find_python(self.version).code:
            raise PythonMissing(self.version)
