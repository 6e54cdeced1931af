"""Every benchmark runs to its end on a CPU, in a tiny size: none is found broken on the machine it is meant for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from benchmarks import measure, step, volume, window
from benchmarks.__main__ import main
from prompt_das.inference.volume.executors import run_here

import pytest


@pytest.fixture
def run_benchmark(tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """Runs a command of python -m benchmarks with one measurement of each time -> what it wrote."""

    def run(command: str, *options: str) -> list[dict[str, Any]]:
        out = tmp_path / "out" / f"{command}.json"
        main([command, "--repeats", "1", "--output", str(out), *options])
        report = json.loads(out.read_text())
        assert report.keys() == {"machine", command}
        assert report["machine"].keys() >= {"processor", "cores", "threads", "gpu", "torch", "seed", "load"}
        return report[command]

    return run


@pytest.mark.parametrize("size", ["quick", "paper"])
def test_each_part_of_the_network_has_its_time(run_benchmark: Callable, tiny: list[str], size: str) -> None:
    (result,) = run_benchmark("model", "--size", size, "--", *tiny, "INPUT.CROP_SIZE", "32")
    forward, training = result["forward of one image, ms"], result["training iteration, ms"]
    assert set(forward) == {"encoder", "decoder", "decoder + segmentation head", "decoder + both heads"}
    assert set(training) == {"forward", "backward", "optimizer", "EMA", "total"}
    assert min(*forward.values(), *training.values()) > 0
    assert result["size"] == size


def test_the_step_beside_one_image_at_a_time(
    run_benchmark: Callable,
    tiny: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    emulated_bfloat16: None,
) -> None:
    monkeypatch.setattr(step, "in_fresh_process", lambda call, *arguments, **_: call(*arguments))  # saves imports
    fewer_points = ["DOMAIN_ADAPT.CONTRASTIVE.NUM_NEGATIVES", "16"]
    results = run_benchmark("step", "--size", "quick", "--", *tiny, *fewer_points)
    forward, evaluation, training = step.WHAT
    assert [(r["precision"], r["what"]) for r in results] == [
        (precision, what)
        for precision in ("float32", "bfloat16")  # the config's own comes second
        for what in (forward, evaluation, training)
    ]
    for result in results:
        for key in ("seconds", "peak memory, MB"):
            assert set(result[key]) == {"prompt_das", "one image at a time"}
        assert result["ratio"] > 0
        compared = {forward: {"logits"}, evaluation: {"logits"}}.get(
            result["what"], {"probability", "density", "losses", "gradients"}
        )
        assert set(result["largest relative difference"]) == (compared if result["precision"] == "float32" else set())
        assert all(difference < 1e-4 for difference in result["largest relative difference"].values())
    for result in results[2::3]:
        for parts in result["parts, s"].values():
            assert set(parts) == {"teacher", "forward", "backward", "optimizer", "EMA"}
    assert "| quick, bfloat16" in capsys.readouterr().out


def test_both_ways_to_compute_metrics_agree(run_benchmark: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    results = run_benchmark("metrics", "--size", "256", "400")
    assert [(r["size"], r["instances"]) for r in results] == [(256, 2), (400, 4)]
    for result in results:
        assert set(result["seconds"]) == {"prompt_das", "one mask per instance"}
        assert all(0 < times["low"] <= times["median"] <= times["high"] for times in result["seconds"].values())
        assert set(result["scores"]) == {"Dice", "AJI", "PQ"}
        assert result["largest difference"] < 1e-12
    assert "| 400²" in capsys.readouterr().out


@pytest.mark.slow
def test_window_beside_monai(run_benchmark: Callable, tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("monai")
    monkeypatch.setattr(window, "in_fresh_process", lambda call, *arguments, **_: call(*arguments))  # saves imports
    overrides = [*tiny, "INPUT.SCALE", "0.5", "TEST.WINDOW.STRIDE", "24", "MODEL.PRECISION", "float32"]
    networks = ("copy", "convolutions", "quick")
    results = run_benchmark("window", "--network", *networks, "--size", "200", "--", *overrides)
    assert [(r["network"], r["blend"]) for r in results] == [(n, b) for n in networks for b in ("uniform", "gaussian")]
    for result in results:
        assert (result["side"], result["window"], result["windows"]) == (100, 32, 16)  # starts 0, 24, 48, 68
        for key in ("seconds", "peak memory, MB"):
            assert set(result[key]) == {"prompt_das", "MONAI"}
        assert result["ratio"] > 0
        if result["blend"] == "uniform":
            assert result["largest difference"] < 1e-4


def test_crops_per_second(run_benchmark: Callable) -> None:
    results = run_benchmark("loader", "--size", "150", "--slices", "3", "--", "INPUT.CROP_SIZE", "64")
    assert [r["what"] for r in results] == ["image alone", "labels alone", "training sample"]
    for result in results:
        rates = result["crops per second"]
        assert rates.keys() == {"prepared Zarr", "PNG and TIFF"}
        assert result["ratio"] == pytest.approx(rates["prepared Zarr"]["median"] / rates["PNG and TIFF"]["median"])
        assert (result["size"], result["crop"], result["slices"]) == (150, 64, 3)


def test_a_volume_here_and_on_dask_workers(
    run_benchmark: Callable, tiny: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(volume, "in_fresh_process", lambda call, *arguments: call(*arguments))  # saves many imports
    monkeypatch.setattr(volume, "peak_memory", lambda run: (measure.peak_memory(run), 7_000_000)[1])
    monkeypatch.setattr(volume, "dask_executor", lambda workers: nullcontext(run_here))  # its own tests start processes
    results = run_benchmark("volume", "--slices", "2", "3", "--size", "64", "--", *tiny)
    assert [(r["slices"], r["workers"]) for r in results] == [(2, 0), (2, 2), (3, 0), (3, 2)]
    assert all(here["instances"] == dask["instances"] for here, dask in zip(results[::2], results[1::2], strict=True))
    assert all(result["seconds"] > 0 for result in results)
    assert [here["flushes"] > 3 * here["slices"] for here in results[::2]] == [True, True]
    assert all(0 < here["flushing"] < here["seconds"] for here in results[::2])
    out = capsys.readouterr().out
    assert re.search(r"3 × 64² *\| one process *\| 7 ", out)
    assert re.search(r"3 × 64² *\| 2 Dask workers *\| +\|", out)


def test_large_slices_after_the_network(run_benchmark: Callable) -> None:
    results = run_benchmark("large-slices", "--size", "300", "--slices", "5")
    done = [(r["instances"], r["what"]) for r in results]
    steps = ["find", "write", "pyramids of three arrays"]
    assert done == [(how, step) for how in ("components", "centers") for step in steps]
    assert all(r["clock"]["median"] > 0 for r in results)


def test_memory_of_linking_is_that_of_parts_at_borders(run_benchmark: Callable) -> None:
    few, many = run_benchmark("linking", "--regions", "1000", "4000", "--blocks", "3")
    assert (few["parts"], many["parts"]) == (4000, 16_000)  # of two shared slices, from both sides
    assert many["bytes of a part"] == pytest.approx(few["bytes of a part"], rel=0.2)


def test_a_click_beside_the_first_answer(
    run_benchmark: Callable, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = [*tiny, "INPUT.SCALE", "0.5", "MODEL.PRECISION", "float32"]
    results = run_benchmark("predictor", "--size", "quick", "--slice", "300", "--view", "60", "--", *overrides)
    # A window is 64 px of the slice, and windows begin every 64 px: 120 ... 180 lies in the second and the third.
    # The first slice's window, and two of the four, hold clicks: those are predicted without them as well.
    assert [(r["slice"], r["view"], r["windows"]) for r in results] == [(64, 64, 2), (300, 60, 6)]
    for result in results:
        times = result["seconds"]
        assert set(times) == {"first answer", "click", "undo", "slice before"}
        assert result["click / first answer"] == pytest.approx(
            times["click"]["median"] / times["first answer"]["median"]
        )
        assert result["windows of a click"]["median"] == 1  # they do not overlap here
    assert "| 300²" in capsys.readouterr().out
