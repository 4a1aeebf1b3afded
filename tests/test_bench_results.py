"""ci.bench.speed.results: docs/benchmarks.md is what the results beside it say"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ci.bench.speed import results

MACHINE = {
    "cpu": "Xeon", "cores": 16, "memory_gb": 128.0, "system": "Linux", "python": "3.12.3",
    "gpu": "NVIDIA H100 80GB HBM3", "gpus": 1, "driver": "580.1", "cuda": "13.0",
    "torch": "2.11.0", "diffusers": "0.42.1", "transformers": "5.17.0", "commit": "abc1234",
}  # fmt: skip
ROW = {
    "model": "i2vgen-xl", "way": "ours", "how": "compiled", "is_whole": True, "step_s": 0.11, "video_s": 6.0,
    "peak_gib": 7.3, "load_s": 2.0, "tflops": 349.0, "floor_ratio": 2.2, "psnr_db": 45.2, "ssim": 0.9991,
}  # fmt: skip
PEER = {**ROW, "way": "stock fp32", "how": "eager", "is_whole": False, "video_s": 42.0, "psnr_db": None, "ssim": None}
GPU: dict[str, Any] = {
    "bench": "gpu", "machine": MACHINE, "rate_tflops": 690.5,
    "figures": [
        {
            "name": "i2v_s_per_video", "value": 6.0, "unit": "s", "bar": 5.5, "better": "lower",
            "peers": {"stock fp32": 42.0},
        },
        {"name": "i2v_vs_stock_fp32", "value": 7.0, "unit": "x", "bar": 7, "better": "higher", "peers": {}},
        {"name": "psnr_db", "value": None, "unit": "dB", "bar": 40, "better": "higher", "peers": {}},
    ],
    "presets": {"i2vgen-xl": {"width": 512, "height": 512, "frames": 16, "steps": 50, "fps": 8, "guidance": 9.0}},
    "results": [ROW, PEER], "notes": ["stock fp32: 4 steps were timed"],
}  # fmt: skip
START: dict[str, Any] = {
    "bench": "start-gpu", "machine": MACHINE, "figures": [], "notes": [],
    "phases": [{"s": 0.3, "process": "server", "phase": "the port answers"}],
}  # fmt: skip


def test_the_page_is_what_the_results_beside_it_give() -> None:
    """Both are written by a bench, or neither is there yet."""
    file = results.FOLDER / f"{results.NAME}.json"
    page = file.with_suffix(".md")
    assert file.exists() == page.exists()
    if file.exists():
        assert page.read_text(encoding="utf-8") == results.page(json.loads(file.read_text(encoding="utf-8")))


def test_a_page_has_the_device_the_figures_the_misses_and_all_ways() -> None:
    lines = results.page([GPU, START]).splitlines()
    assert "| `i2v_s_per_video` | 6 s | at most 5.5 s | **missed** | stock fp32 42 |" in lines
    assert "| `i2v_vs_stock_fp32` | 7 x | at least 7 x | reached |  |" in lines
    missed = lines[lines.index("## What was not reached") + 2 :]
    assert missed[:2] == ["- `i2v_s_per_video` is 6 s; it should be at most 5.5", "- `psnr_db` was not measured"]
    assert (
        "`python3 tasks.py bench gpu` on NVIDIA H100 80GB HBM3, driver 580.1, cuda 13.0, torch 2.11.0, "
        "diffusers 0.42.1, transformers 5.17.0, Python 3.12.3, 16 cores of Xeon, commit abc1234." in lines
    )
    assert "| ours, compiled | 0.110 | 6.00 | 7.3 | 349 | 2.20 | 45.2 | 0.9991 | 2.0 |" in lines
    assert "| stock fp32 | 0.110 | 42.00 (reckoned) | 7.3 | 349 | 2.20 |  |  | 2.0 |" in lines
    assert "- stock fp32: 4 steps were timed" in lines
    assert "| 0.30 | server | the port answers |" in lines


def test_a_bench_that_was_not_run_again_stays_as_it_was(tmp_path: Path) -> None:
    results.write([START, GPU], tmp_path)
    results.write([{**GPU, "figures": []}], tmp_path)
    kept = json.loads((tmp_path / "benchmarks.json").read_text())
    assert kept == [{**GPU, "figures": []}, START]
    assert (tmp_path / "benchmarks.md").read_text() == results.page(kept)


def test_a_model_that_was_not_measured_again_stays_as_it_was(tmp_path: Path) -> None:
    def run(commit: str, *models: str, ours: str, psnr: float) -> dict[str, Any]:
        rows = [
            {**ROW, "model": model, "way": way}
            for model in models for way in ("ours", "fp16 eager") if way != "ours" or model in ours
        ]  # fmt: skip
        figure = {"unit": "x", "bar": 1, "better": "higher", "peers": {}}
        names = {"i2v_vs_autocast": "i2vgen-xl", "svd_vs_fp16_eager": "svd-xt"}
        figures = [{**figure, "name": name, "value": psnr if model in ours else None} for name, model in names.items()]
        figures.append(
            {**figure, "name": "psnr_db", "value": psnr, "peers": {f"{model}, ours": psnr for model in ours.split()}}
        )
        figures.append({**figure, "name": "alone_ready_s", "bar": None, "value": psnr})
        return {
            **GPU, "machine": {**MACHINE, "commit": commit}, "results": rows, "figures": figures,
            "presets": dict.fromkeys(models, GPU["presets"]["i2vgen-xl"]),
            "notes": [f"{model}: at {commit}" for model in models],
        }  # fmt: skip

    both = ("i2vgen-xl", "svd-xt")
    results.write([run("aaaaaaa", *both, ours="i2vgen-xl svd-xt", psnr=50)], tmp_path)
    results.write([run("bbbbbbb", *both, ours="i2vgen-xl", psnr=60)], tmp_path)
    page = (tmp_path / "benchmarks.md").read_text()
    new, old = page.index("commit bbbbbbb"), page.index("commit aaaaaaa")
    assert new < page.index("**i2vgen-xl**") < page.index("i2vgen-xl: at bbbbbbb") < old < page.index("**svd-xt**")
    assert page.count("## Speed") == page.count("**i2vgen-xl**") == page.count("**svd-xt**") == 1
    for line in ("| `i2v_vs_autocast` | 60 x |", "| `svd_vs_fp16_eager` | 50 x |", "| `psnr_db` | 50 x |",
                 "| `alone_ready_s` | 60 x |"):  # fmt: skip
        assert page.count(line) == 1
    assert "svd-xt: at bbbbbbb" not in page
    results.write([run("ccccccc", *both, ours="i2vgen-xl svd-xt", psnr=70)], tmp_path)
    page = (tmp_path / "benchmarks.md").read_text()
    assert page.count("commit ") == page.count("commit ccccccc") == 1


def test_results_of_two_cards_are_one() -> None:
    svd = {**GPU["presets"]["i2vgen-xl"], "frames": 25}
    first, vs_stock, psnr = GPU["figures"]
    other = {
        **GPU, "rate_tflops": 678.2, "presets": {"svd-xt": svd}, "results": [{**ROW, "model": "svd-xt"}],
        "figures": [
            {**first, "value": None}, {**vs_stock, "value": None}, {**psnr, "value": 60.1, "peers": {"a": 60.1}},
        ],
        "notes": ["stock fp32: 4 steps were timed", "svd-xt: compiled in 9 s"],
    }  # fmt: skip
    mine = {**GPU, "figures": [first, vs_stock, {**psnr, "value": 55.5, "peers": {"b": 55.5}}]}
    both, start = results.joined([mine, other, START])
    assert start == START
    assert [each["value"] for each in both["figures"]] == [6.0, 7.0, 55.5]
    assert both["figures"][2]["peers"] == {"b": 55.5, "a": 60.1}
    assert [each["model"] for each in both["results"]] == ["i2vgen-xl", "i2vgen-xl", "svd-xt"]
    assert list(both["presets"]) == ["i2vgen-xl", "svd-xt"]
    assert both["notes"] == [
        "stock fp32: 4 steps were timed", "svd-xt: compiled in 9 s",
        "svd-xt: in a run of their own on the same machine, at 678.2 TFLOP/s",
    ]  # fmt: skip
    assert "**svd-xt**, 512x512, 25 frames" in results.page([both])


def test_results_of_two_commits_are_not_put_together() -> None:
    other = {**GPU, "machine": {**MACHINE, "commit": "def5678"}}
    with pytest.raises(ValueError, match="two machines or commits"):
        results.joined([GPU, other])


def test_what_the_gpu_is_busy_with_is_a_table_with_a_column_for_each_way() -> None:
    def share(way: str, name: str, ms: float, count: float) -> dict[str, Any]:
        return {"model": "svd-xt", "way": way, "name": name, "ms": ms, "count": count}

    found = [share("ours", "norms", 2.5, 40), share("ours", "rest", 1, 2), share("autocast", "copies", 30.04, 500)]
    lines = results.page(
        [{"bench": "profile", "machine": MACHINE, "figures": [], "notes": [], "kinds": found}]
    ).splitlines()
    start = lines.index("**svd-xt**, ms a step")
    assert lines[start + 2 : start + 9] == [
        "|  | ours | autocast |", "| --- | --- | --- |", "| norms | 2.5 | 0.0 |", "| rest | 1.0 | 0.0 |",
        "| copies | 0.0 | 30.0 |", "| all | 3.5 | 30.0 |", "| kernels | 42 | 500 |",
    ]  # fmt: skip


def test_memory_and_several_cards_have_their_places() -> None:
    law = {
        "model": "svd-xt", "fitted": {"weights_gib": 4.1}, "written": {"weights_gib": 4.23}, "error_gib": 0.1,
        "written_error_gib": 0.2,
    }  # fmt: skip
    memory = {"bench": "memory", "machine": {**MACHINE, "gpus": 2}, "figures": [], "notes": [], "laws": [law]}
    page = results.page([{**memory, "bench": "workers"}, memory])
    assert "`python3 tasks.py bench gpu --workers` on 2 x NVIDIA H100 80GB HBM3, driver" in page
    assert "`python3 tasks.py bench memory` on one of 2 x NVIDIA H100 80GB HBM3, driver" in page
    assert "| svd-xt | weights_gib | 4.100 | 4.230 | 0.10 |" in page
