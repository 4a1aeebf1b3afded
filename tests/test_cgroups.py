"""app.cgroups: trees as Linux shows them"""

from __future__ import annotations

from pathlib import Path

import pytest

from app.cgroups import Allowance, Memory, allowance


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def found(root: Path, own: str, files: dict[str, str]) -> Allowance:
    own_file = root / "own"
    own_file.write_text(own)
    return allowance(tree(root / "mount", files), own_file)


V2_LIMITED = {
    "memory.max": "2147483648\n",
    "memory.current": "1500000000\n",
    "memory.stat": "anon 400000000\nfile 1100000000\ninactive_file 1000000000\n",
    "cpu.max": "150000 100000\n",
}


def test_version_2_in_a_container_of_its_own_namespace(tmp_path: Path) -> None:
    assert found(tmp_path, "0::/\n", V2_LIMITED) == Allowance(Memory(2147483648, 500000000), 1.5)


def test_version_2_without_limits(tmp_path: Path) -> None:
    files = {"memory.max": "max\n", "memory.current": "5\n", "cpu.max": "max 100000\n"}
    assert found(tmp_path, "0::/\n", files) == Allowance(None, None)


def test_the_tightest_of_the_groups_around_it_counts(tmp_path: Path) -> None:
    files = {
        "kubepods/pod/box/memory.max": "max\n",
        "kubepods/pod/box/cpu.max": "400000 100000\n",
        "kubepods/pod/memory.max": "1000\n",
        "kubepods/pod/memory.current": "10\n",
        "kubepods/pod/cpu.max": "max 100000\n",
        "kubepods/memory.max": "5000\n",
        "kubepods/cpu.max": "200000 100000\n",
    }
    assert found(tmp_path, "0::/kubepods/pod/box\n", files) == Allowance(Memory(1000, 10), 2.0)


@pytest.mark.parametrize("own", ["0::/../../box\n", "0::/system.slice/docker-abc.scope\n"])
def test_a_path_of_the_host_is_taken_as_the_top(tmp_path: Path, own: str) -> None:
    assert found(tmp_path, own, V2_LIMITED).cores == 1.5


V1 = {
    "memory/memory.limit_in_bytes": "1073741824\n",
    "memory/memory.usage_in_bytes": "300\n",
    "memory/memory.stat": "inactive_file 1\ntotal_inactive_file 100\n",
    "cpu,cpuacct/cpu.cfs_quota_us": "50000\n",
    "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
}


def test_version_1(tmp_path: Path) -> None:
    own = "12:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n0::/docker/abc\n"
    assert found(tmp_path, own, V1) == Allowance(Memory(1073741824, 200), 0.5)


def test_version_1_without_a_limit_of_cores(tmp_path: Path) -> None:
    files = V1 | {"cpu,cpuacct/cpu.cfs_quota_us": "-1\n"}
    assert found(tmp_path, "12:memory:/\n4:cpu,cpuacct:/\n", files).cores is None


@pytest.mark.parametrize("own", ["", "no colons\n", "0::/\n"])
def test_where_nothing_can_be_seen_there_is_no_limit(tmp_path: Path, own: str) -> None:
    assert found(tmp_path, own, {"memory.max": "", "cpu.max": "nonsense", "memory.stat": "x"}) == Allowance(None, None)
    assert allowance(tmp_path / "absent", tmp_path / "absent") == Allowance(None, None)


def test_this_machine_s_own_can_be_read() -> None:
    own = allowance()
    assert own.memory is None or own.memory.limit_bytes > own.memory.used_bytes >= 0
    assert own.cores is None or own.cores > 0
