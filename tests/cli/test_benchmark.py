"""tools/benchmark.py runs end to end on a CPU, in tiny sizes, so that it does not fail elsewhere for a silly reason."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

from prompt_das.data.slices import VolumeSpec, load_slices, read_image
from prompt_das.evaluation.metrics import evaluate_slice
from prompt_das.inference.volume.executors import run_here
from prompt_das.ops.points import pad_points
from prompt_das.volumes import volume as volumes

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

LoadTool = Callable[[str], ModuleType]


@pytest.fixture
def benchmark(load_tool: LoadTool, tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """Runs a command of tools/benchmark.py with one measurement of each time -> what it wrote."""

    def run(command: str, *options: str) -> list[dict[str, Any]]:
        out = tmp_path / "out" / f"{command}.json"
        load_tool("benchmark").main([command, "--repeats", "1", "--output", str(out), *options])
        report = json.loads(out.read_text())
        assert report.keys() == {"machine", command}
        assert report["machine"].keys() >= {"processor", "cores", "threads", "gpu", "torch", "seed", "load"}
        return report[command]

    return run


# ---- model


@pytest.mark.parametrize("size", ["quick", "paper"])
def test_each_part_of_the_network_has_its_time(benchmark: Callable, tiny: list[str], size: str) -> None:
    (result,) = benchmark("model", "--size", size, "--", *tiny, "INPUT.CROP_SIZE", "32")
    forward, training = result["forward of one image, ms"], result["training iteration, ms"]
    assert set(forward) == {"encoder", "decoder", "decoder + segmentation head", "decoder + both heads"}
    assert set(training) == {"forward", "backward", "optimizer", "EMA", "total"}
    assert min(*forward.values(), *training.values()) > 0
    assert result["size"] == size


# ---- step


def test_the_step_beside_one_image_at_a_time(
    benchmark: Callable,
    load_tool: LoadTool,
    tiny: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    step = load_tool("benchmarks.step")
    monkeypatch.setattr(step, "in_fresh_process", lambda call, *arguments: call(*arguments))  # saves many imports
    fewer_points = ["DOMAIN_ADAPT.CONTRASTIVE.NUM_NEGATIVES", "16"]
    results = benchmark("step", "--size", "quick", "--", *tiny, *fewer_points)
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


@pytest.fixture
def peers(load_tool: LoadTool, tiny: list[str]) -> tuple[Any, Any]:
    """Ours and one image at a time, in float32, with the same weights and data."""
    step = load_tool("benchmarks.step")
    cfg = step.config("quick", "float32", [*tiny, "DOMAIN_ADAPT.CONTRASTIVE.NUM_NEGATIVES", "16"])
    return step.Ours(cfg, 0), step.Peer(cfg, 0)


def some_points(*counts: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(sum(counts))
    return [32 * torch.rand(n, 2, generator=generator) for n in counts]


@pytest.mark.parametrize("prompts", [(0, 0, 0), (1, 1, 1), (0, 1, 5)])
@pytest.mark.parametrize("contrastive", [(0, 0, 0), (3, 0, 7)])
def test_one_image_at_a_time_is_the_same_network(peers: Any, prompts: tuple, contrastive: tuple) -> None:
    ours, peer = peers
    images, prompt_lists, contrastive_lists = ours.windows[:3], some_points(*prompts), some_points(*contrastive)
    points, valid = pad_points(contrastive_lists)
    expected = ours.network.decode(
        ours.network.encode(images),
        *pad_points(prompt_lists),
        ours.size,
        contrastive_points=points,
        contrastive_valid=valid,
    )
    answers = peer.plain.predict(images, prompt_lists, contrastive_lists)
    for i, answer in enumerate(answers):
        torch.testing.assert_close(answer.logits, expected.logits[i], rtol=0, atol=1e-5)
        torch.testing.assert_close(answer.density, expected.density[i], rtol=0, atol=1e-5)
        torch.testing.assert_close(answer.contrastive, expected.contrastive[i, valid[i]], rtol=0, atol=1e-5)


def test_one_image_at_a_time_has_the_same_losses_and_gradients(peers: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    for x in peers[0].batch:
        x["prompts"] = x["prompts"][:0] if x["domain"] == "source" else x["prompts"]
        if x["domain"] == "target":
            x["pixel_valid"] = torch.rand(32, 32, generator=generator) > 0.4
            x["density_ignore"] = torch.rand(32, 32, generator=generator) > 0.3
    targets = [x for x in peers[0].batch if x["domain"] == "target"]
    targets[0]["contrastive"]["positives"] = torch.zeros(0, 2)  # an image without sparse points
    targets[1]["pixel_valid"][:] = False  # and one where the teacher is sure of nothing
    ours, peer = (side.network for side in peers)
    expected, found = ours.losses(peers[0].batch), peers[1].plain.losses(peers[0].batch)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-7, msg=name)
    sum(expected.values()).backward()
    sum(found.values()).backward()
    for (name, a), b in zip(ours.named_parameters(), peer.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-3, atol=1e-5, msg=name)


def test_one_image_at_a_time_has_the_same_teacher(peers: Any) -> None:
    """Also where a sparse point lies beside a peak of the first pass, which then counts once."""
    ours, peer = peers
    _, _, points, valid = ours.labeler.predict_teacher(ours.targets, *pad_points(ours.sparse))
    assert int(valid.sum()) >= ours.peaks - len(ours.targets)  # about as many peaks as asked for
    for side in peers:
        side.sparse = [p[v][:2] + 0.25 for p, v in zip(points, valid, strict=True)]
    expected, found = ours.predict_teacher(), peer.predict_teacher()
    for name in ("probability", "density"):
        for a, b in zip(expected[name], found[name], strict=True):
            torch.testing.assert_close(b, a, rtol=0, atol=1e-5)


def test_one_image_at_a_time_moves_student_and_teacher_alike(peers: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(p.shape, generator=generator) for p in peers[0].network.parameters()]
    for side in peers:
        for parameter, gradient in zip(side.network.parameters(), gradients, strict=True):
            parameter.grad = gradient.clone()
        side.network.pixel_mean += 1  # a buffer
        side.move_student()
        side.move_teacher()
    (ours, our_teacher), (peer, peer_teacher) = ((side.network, side.teacher) for side in peers)
    for a, b in ((ours, peer), (our_teacher, peer_teacher)):
        torch.testing.assert_close(list(b.parameters()), list(a.parameters()), rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(list(b.buffers()), list(a.buffers()))
    assert not torch.equal(ours.decoder.mask_token, our_teacher.decoder.mask_token)


def test_what_is_not_the_same_is_not_compared(load_tool: LoadTool) -> None:
    compare = load_tool("benchmarks.step").compare
    ones = [torch.ones(2), torch.tensor([2.0])]
    assert compare({"losses": ones}, {"losses": [ones[0], torch.tensor([2.001])]}, "step")["losses"] < 1e-3
    for other in (2.01, float("nan")):
        with pytest.raises(RuntimeError, match="step: losses of prompt_das and one image at a time differ"):
            compare({"losses": ones}, {"losses": [ones[0], torch.tensor([other])]}, "step")


# ---- metrics


def test_both_ways_to_compute_metrics_agree(benchmark: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    results = benchmark("metrics", "--size", "256", "400")
    assert [(r["size"], r["instances"]) for r in results] == [(256, 2), (400, 4)]
    for result in results:
        assert set(result["seconds"]) == {"prompt_das", "one mask per instance"}
        assert all(0 < times["low"] <= times["median"] <= times["high"] for times in result["seconds"].values())
        assert set(result["scores"]) == {"Dice", "AJI", "PQ"}
        assert result["largest difference"] < 1e-12
    assert "| 400²" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("true", "pred", "dice", "aji", "pq"),
    [
        # 2 px in common, 4 in both: IoU is 2/6.
        (["11..", "11.."], [".7..", ".7.."], 2 * 2 / (4 + 2), 2 / 4, 0.0),
        # Instance 1 has IoU 5/6, 2 is missed (2 px), 7 is a false alarm (3 px).
        (["111..2", "111..2", "......"], ["111...", "11....", "...777"], 10 / 16, 5 / (6 + 2 + 3), (5 / 6) / 2),
        # Prediction 3 serves both in AJI, and only the larger in PQ.
        (["111122"], ["333333"], 1.0, (4 + 2) / (6 + 6), (4 / 6) / (1 + 1 / 2)),
        # Instance 1 overlaps most with 4, but takes 5: IoU 2/5 against 3/15.
        (["11111.....", "2222222222"], ["55444.....", "4444444444"], 1.0, (2 + 10) / (5 + 13), (10 / 13) / 2),
        (["...."], ["...."], 1.0, 1.0, 1.0),
        (["11.."], ["...."], 0.0, 0.0, 0.0),
    ],
)
def test_one_mask_per_instance_by_hand(
    load_tool: LoadTool, true: list[str], pred: list[str], dice: float, aji: float, pq: float
) -> None:
    def picture(rows: list[str]) -> np.ndarray:
        return np.array([[0 if pixel == "." else int(pixel) for pixel in row] for row in rows])

    scores = load_tool("benchmarks.one_mask_per_instance").scores(picture(true), picture(pred))
    assert scores == pytest.approx({"Dice": dice, "AJI": aji, "PQ": pq})


SMALL_MAPS = hnp.arrays(np.int32, (5, 6), elements=st.integers(0, 3))


@given(true=SMALL_MAPS, pred=SMALL_MAPS)
def test_one_mask_per_instance_on_any_small_maps(load_tool: LoadTool, true: np.ndarray, pred: np.ndarray) -> None:
    expected = evaluate_slice(true, pred)
    for name, value in load_tool("benchmarks.one_mask_per_instance").scores(true, pred).items():
        assert value == pytest.approx(expected[name])


def test_the_label_maps_are_like_mitoem(load_tool: LoadTool) -> None:
    maps = load_tool("benchmarks.metrics").label_maps
    true, pred = maps(1024, 29, np.random.default_rng(0))
    assert np.unique(true).tolist() == list(range(30))
    assert 0.04 < (true > 0).mean() < 0.08
    quality = evaluate_slice(true, pred)
    assert quality["tp"] > quality["fn"] > 0
    assert quality["fp"] > 0
    np.testing.assert_array_equal(maps(1024, 29, np.random.default_rng(0))[1], pred)


# ---- window


def test_window_beside_monai(
    benchmark: Callable, load_tool: LoadTool, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("monai")
    window = load_tool("benchmarks.window")
    monkeypatch.setattr(window, "in_fresh_process", lambda call, *arguments: call(*arguments))  # saves many imports
    overrides = [*tiny, "INPUT.SCALE", "0.5", "TEST.WINDOW.STRIDE", "24", "MODEL.PRECISION", "float32"]
    networks = ("copy", "convolutions", "quick")
    results = benchmark("window", "--network", *networks, "--size", "200", "--", *overrides)
    assert [(r["network"], r["blend"]) for r in results] == [(n, b) for n in networks for b in ("uniform", "gaussian")]
    for result in results:
        assert (result["side"], result["window"], result["windows"]) == (100, 32, 16)  # starts 0, 24, 48, 68
        for key in ("seconds", "peak memory, MB"):
            assert set(result[key]) == {"prompt_das", "MONAI"}
        assert result["ratio"] > 0
        if result["blend"] == "uniform":
            assert result["largest difference"] < 1e-4


def test_other_windows_are_not_compared(load_tool: LoadTool, tiny: list[str]) -> None:
    """A slice smaller than a window is padded at other sides by MONAI."""
    pytest.importorskip("monai")
    window = load_tool("benchmarks.window")
    cfg = window.config("copy", tiny)
    with pytest.raises(RuntimeError, match="windows differ"):
        window.number_of_windows(cfg, window.build_image(cfg, 20, seed=0))


def test_without_monai_the_command_says_what_to_install(load_tool: LoadTool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "monai.inferers", None)
    with pytest.raises(SystemExit, match=r"MONAI, which is not installed: pip install -e '\.\[benchmark\]'"):
        load_tool("benchmark").main(["window"])


# ---- loader


def test_crops_per_second(benchmark: Callable) -> None:
    results = benchmark("loader", "--size", "150", "--slices", "3", "--", "INPUT.CROP_SIZE", "64")
    assert [r["what"] for r in results] == ["image alone", "labels alone", "training sample"]
    for result in results:
        rates = result["crops per second"]
        assert rates.keys() == {"prepared Zarr", "PNG and TIFF"}
        assert result["ratio"] == pytest.approx(rates["prepared Zarr"]["median"] / rates["PNG and TIFF"]["median"])
        assert (result["size"], result["crop"], result["slices"]) == (150, 64, 3)


def test_no_slice_is_found_decoded(load_tool: LoadTool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = load_tool("benchmarks.loader")
    loader.write_slices(tmp_path, size=64, slices=4, seed=0)
    slices = load_slices("benchmark", VolumeSpec(str(tmp_path), mitoem_split="train"))
    decode, decoded = volumes.decode_image, []
    monkeypatch.setattr(volumes, "decode_image", lambda path: (decoded.append(path.name), decode(path))[1])
    for epoch in range(2):
        decoded.clear()
        rate, crops = loader.read_epoch(slices, lambda d, rng: read_image(d, (0, 0, 8, 8)), epoch, seed=0)
        assert rate > 0
        assert len(crops) == 3
        assert {"im0001.png", "im0002.png", "im0003.png"} <= set(decoded)


def test_a_mosaic_repeats_nothing(load_tool: LoadTool) -> None:
    tiles = np.arange(2 * 3 * 3).reshape(2, 3, 3)
    picture = load_tool("benchmarks.loader").mosaic(tiles, np.arange(16), columns=4)
    cut = picture.reshape(4, 3, 4, 3).swapaxes(1, 2).reshape(16, 9)
    assert len(np.unique(cut, axis=0)) == 16
    assert (np.sort(cut, axis=1)[:8] == np.arange(9)).all()


# ---- what all share


def test_peers_take_turns_and_the_first_round_does_not_count(load_tool: LoadTool) -> None:
    calls = ""

    def call(name: str) -> None:
        nonlocal calls
        calls += name

    times = load_tool("benchmarks.measure").interleaved({"a": lambda: call("a"), "b": lambda: call("b")}, repeats=3)
    assert calls == "abbaabba"
    assert [len(taken) for taken in times.values()] == [3, 3]


def test_what_takes_long_is_measured_once(load_tool: LoadTool, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = load_tool("benchmarks.measure")
    monkeypatch.setattr(measure, "seconds", lambda run, device: run())
    times = measure.interleaved({"quick": lambda: 1.0, "slow": lambda: 60.0}, repeats=4)
    assert times == {"quick": [1.0] * 4, "slow": [60.0]}
    assert measure.show(measure.spread(times["slow"]), 1) == "60.0 (n=1)"
    assert measure.show(measure.spread([1.0, 2.0, 6.0]), 0, 1e3) == "2000 (1000–6000)"


def test_a_ratio_is_the_median_over_the_rounds(load_tool: LoadTool) -> None:
    ratio = load_tool("benchmarks.measure").ratio
    assert ratio([2.0, 20.0, 8.0], [1.0, 10.0, 1.0]) == 2.0  # of the medians it would be 8
    assert ratio([60.0], [1.0, 2.0, 3.0]) == 30.0


def test_peak_memory_is_that_of_the_call(load_tool: LoadTool) -> None:
    needed = load_tool("benchmarks.measure").peak_memory(lambda: np.ones(64 << 20, np.uint8).sum())
    assert 60 << 20 < needed < 80 << 20


def test_memory_is_measured_in_a_process_of_its_own(load_tool: LoadTool) -> None:
    assert load_tool("benchmarks.measure").in_fresh_process(os.getpid) != os.getpid()


def test_no_measurement_is_an_error(load_tool: LoadTool, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load_tool("benchmark").main(["metrics", "--repeats", "0"])
    assert "--repeats must be at least 1, not 0" in capsys.readouterr().err


# ---- volume


def test_a_volume_here_and_on_dask_workers(
    benchmark: Callable, load_tool: LoadTool, tiny: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    measure, volume = load_tool("benchmarks.measure"), load_tool("benchmarks.volume")
    monkeypatch.setattr(volume, "in_fresh_process", lambda call, *arguments: call(*arguments))  # saves many imports
    monkeypatch.setattr(volume, "peak_memory", lambda run: (measure.peak_memory(run), 7_000_000)[1])
    monkeypatch.setattr(volume, "dask_executor", lambda workers: nullcontext(run_here))  # its own tests start processes
    results = benchmark("volume", "--slices", "2", "3", "--size", "64", "--", *tiny)
    assert [(r["slices"], r["workers"]) for r in results] == [(2, 0), (2, 2), (3, 0), (3, 2)]
    assert all(here["instances"] == dask["instances"] for here, dask in zip(results[::2], results[1::2], strict=True))
    assert all(result["seconds"] > 0 for result in results)
    out = capsys.readouterr().out
    assert re.search(r"3 × 64² *\| one process *\| 7 ", out)
    assert re.search(r"3 × 64² *\| 2 Dask workers *\| +\|", out)


# ---- predictor


def test_a_click_beside_the_first_answer(
    benchmark: Callable, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = [*tiny, "INPUT.SCALE", "0.5", "MODEL.PRECISION", "float32"]
    results = benchmark("predictor", "--size", "quick", "--slice", "300", "--view", "60", "--", *overrides)
    # A window is 64 px of the slice, and windows begin every 64 px: 120 ... 180 lies in the second and the third.
    assert [(r["slice"], r["view"], r["windows"]) for r in results] == [(64, 64, 1), (300, 60, 4)]
    for result in results:
        times = result["seconds"]
        assert set(times) == {"first answer", "click", "undo", "slice before"}
        assert result["click / first answer"] == pytest.approx(
            times["click"]["median"] / times["first answer"]["median"]
        )
        assert result["windows of a click"]["median"] == 1  # they do not overlap here
    assert "| 300²" in capsys.readouterr().out


def test_a_slow_first_answer_is_not_repeated_but_clicks_are(
    load_tool: LoadTool, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = load_tool("benchmarks.predictor")
    monkeypatch.setattr(predictor, "NOT_REPEATED", 0.0)
    built = predictor.build_predictor("quick", seed=0, opts=tiny)
    result = predictor.benchmark(built, side=128, view=128, repeats=4, seed=0)
    assert {name: times["n"] for name, times in result["seconds"].items()} == {
        "first answer": 1,
        "click": 4,
        "undo": 4,
        "slice before": 4,
    }
