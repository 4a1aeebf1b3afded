"""app.causes: real errors and what is said of them"""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

import pytest

from app import causes, crew
from app.adapters.base import BrokenOutput, WeightsMissing
from app.files import CannotWrite
from app.texts import speaking
from jingxiang import ports
from jingxiang.errors import JingxiangError

# What the libraries really say, as far as it can be had without the fault.
SAID = {
    "driver too old": [
        "RuntimeError: The NVIDIA driver on your system is too old (found version 11040).",
        "RuntimeError: CUDA error: CUDA driver version is insufficient for CUDA runtime version",
    ],
    "wrong card": [
        "RuntimeError: CUDA error: no kernel image is available for execution on the device",
        "UserWarning: NVIDIA B200 with CUDA capability sm_100 is not compatible with the current PyTorch installation.",
    ],
    "no card": [
        "RuntimeError: No CUDA GPUs are available",
        "RuntimeError: Found no NVIDIA driver on your system.",
        "OSError: libcuda.so.1: cannot open shared object file: No such file or directory",
    ],
    "card full": [
        "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 11.76 GiB",
        "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ],
    "card failed": [
        "RuntimeError: CUDA error: an illegal memory access was encountered",
        "RuntimeError: cuDNN error: CUDNN_STATUS_INTERNAL_ERROR",
    ],
    "weights damaged": [
        "SafetensorError: Error while deserializing header: MetadataIncompleteBuffer",
        "RuntimeError: Error(s) in loading state_dict: size mismatch for conv_in.weight",
    ],
    "weights missing": [
        "OSError: Error no file named diffusion_pytorch_model.fp16.safetensors found in directory models/x.",
    ],
    "disk full": ["OperationalError: (sqlite3.OperationalError) database or disk is full"],
    "read-only": ["OperationalError: attempt to write a readonly database"],
    "database locked": ["OperationalError: (sqlite3.OperationalError) database is locked"],
    "database damaged": ["DatabaseError: (sqlite3.DatabaseError) database disk image is malformed"],
    "database away": [
        'OperationalError: (psycopg.OperationalError) connection failed: connection to server at "10.0.0.1", port 5432 '
        "failed: Connection refused",
        "OperationalError: terminating connection due to administrator command",
    ],
    "memory full": [
        "JobFailed: the worker ended with exit code -9; its last words are in the log",
        "RuntimeError: [enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory",
    ],
    "crashed": [
        "JobFailed: the worker ended with exit code -11; its last words are in the log",
        "RuntimeError: DataLoader worker is killed by signal: Bus error.",
    ],
    "certificate": [
        "SSLError: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate in chain",
    ],
    "proxy": [
        "ProxyError: Cannot connect to proxy.",
        "OSError: Tunnel connection failed: 407 Proxy Authentication Required",
    ],
    "network": [
        "EndpointConnectionError: Could not connect to the endpoint URL: https://bucket.example/",
        "gaierror: [Errno -2] Name or service not known",
    ],
    "too many files": ["OSError: [Errno 24] Too many open files"],
}


def named(said: str) -> str:
    error, _, text = said.partition(": ")
    found = causes.of(error, text)
    return found.name if found else ""


def of(error: BaseException) -> str:
    found = causes.of(type(error).__name__, str(error))
    return found.name if found else ""


@pytest.mark.parametrize(("name", "said"), [(name, said) for name, texts in SAID.items() for said in texts])
def test_what_libraries_say_is_known(name: str, said: str) -> None:
    assert named(said) == name


@pytest.mark.parametrize("language", ["en", "zh"])
def test_our_own_errors_are_known_in_both_languages(language: str) -> None:
    with speaking(language):
        assert of(BrokenOutput("x")) == "no picture"
        assert of(WeightsMissing(Path("x"), "y")) == "weights missing"
        assert of(CannotWrite("a.mp4", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))) == "disk full"
        assert of(JingxiangError(crew.death(-9))) == "memory full"
        assert of(JingxiangError(crew.death(-11))) == "crashed"


def test_what_the_system_says_is_known(tmp_path: Path) -> None:
    for number, name in {
        errno.ENOSPC: "disk full", errno.EDQUOT: "disk full", errno.EROFS: "read-only", errno.EACCES: "permission",
        errno.EPERM: "permission", errno.EADDRINUSE: "port taken", errno.ENOMEM: "memory full",
        errno.EMFILE: "too many files", errno.ECONNREFUSED: "network", errno.EHOSTUNREACH: "network",
    }.items():  # fmt: skip
        assert of(OSError(number, os.strerror(number))) == name
    assert of(MemoryError()) == "memory full"


def test_a_port_that_is_taken_is_known() -> None:
    with ports.bind("127.0.0.1", 0) as listener:
        listener.listen()
        with pytest.raises(ports.PortTaken) as caught:
            ports.bind("127.0.0.1", listener.getsockname()[1])
    assert of(caught.value) == "port taken"


def test_a_store_that_is_locked_or_damaged_is_known(tmp_path: Path) -> None:
    file = tmp_path / "jobs.sqlite"
    with sqlite3.connect(file, timeout=0) as one, sqlite3.connect(file, timeout=0) as other:
        one.execute("begin exclusive")
        with pytest.raises(sqlite3.OperationalError) as locked:
            other.execute("begin exclusive")
        one.rollback()
    one.close()
    other.close()
    file.write_bytes(b"no database" * 100)
    broken = sqlite3.connect(file)
    with pytest.raises(sqlite3.DatabaseError) as damaged:
        broken.execute("select * from jobs")
    broken.close()
    assert (of(locked.value), of(damaged.value)) == ("database locked", "database damaged")


def test_others_are_not_guessed() -> None:
    for said in ("ValueError: shape", "the prompt is empty", "", "exit code 1", "the seed must be between 0 and 9"):
        assert named(f"X: {said}") == ""


def test_each_is_said_in_both_languages_and_named_once() -> None:
    english = causes.known()
    with speaking("zh"):
        chinese = causes.known()
    assert len({each.name for each in english}) == len(english) == len(chinese)
    for one, other in zip(english, chinese, strict=True):
        assert (one.name, one.pattern) == (other.name, other.pattern)
        assert one.text != other.text
        assert one.fix != other.fix
    assert {each.name for each in english} - set(SAID) == {"permission", "port taken", "no picture"}
