"""The loaders: which sample comes when, whoever loads it."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from prompt_das.data import build
from prompt_das.data.build import (
    IterationBatches,
    SampleStream,
    SourceTargetLoader,
    build_stream_loader,
    build_test_loader,
    get_slices,
)
from prompt_das.data.corrupt_slices import SKIPPED, CorruptSlices
from prompt_das.volumes.volume import VolumeError

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode

SOURCE, TARGET = "synthetic_source_train", "synthetic_target_train"


def draw(d: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """A mapper that says which slice it got and which random number."""
    return {"slice": d["slice"], "random": rng.random()}


def slices(number: int) -> list[dict[str, Any]]:
    return [{"slice": z} for z in range(number)]


# ---- the stream of samples


def test_a_sample_is_a_function_of_seed_and_number() -> None:
    """In whatever order, and however often, it is asked for."""
    stream, again = (SampleStream(slices(5), draw, (0, 1)) for _ in range(2))
    forwards = [stream[n] for n in range(20)]
    backwards = [again[n] for n in reversed(range(20))]
    assert forwards == backwards[::-1]
    assert stream[7] == forwards[7]


def test_another_seed_is_another_stream() -> None:
    a, b, c = ([SampleStream(slices(5), draw, seed)[n] for n in range(20)] for seed in ((0, 0), (0, 1), (1, 0)))
    assert a != b
    assert a != c
    assert not {x["random"] for x in a} & {x["random"] for x in (*b, *c)}


def test_every_slice_comes_once_in_an_epoch_and_each_epoch_has_its_own_order() -> None:
    stream = SampleStream(slices(6), draw, (0,))
    epochs = [tuple(stream[6 * epoch + n]["slice"] for n in range(6)) for epoch in range(5)]
    assert all(sorted(epoch) == list(range(6)) for epoch in epochs)
    assert len(set(epochs)) == 5


def test_no_two_samples_share_their_random_numbers() -> None:
    stream = SampleStream(slices(2), draw, (0,))
    assert len({stream[n]["random"] for n in range(100)}) == 100


def test_an_iteration_takes_the_next_samples() -> None:
    assert list(IterationBatches(3, 0, 3)) == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert list(IterationBatches(3, 2, 3)) == [[6, 7, 8]]
    assert len(IterationBatches(3, 2, 10)) == 8


def as_rank(monkeypatch: pytest.MonkeyPatch, rank: int, world_size: int) -> None:
    monkeypatch.setattr(build.comm, "get_rank", lambda: rank)
    monkeypatch.setattr(build.comm, "get_world_size", lambda: world_size)


@pytest.mark.parametrize("world_size", [2, 3, 6])
def test_processes_share_out_the_samples_of_one(monkeypatch: pytest.MonkeyPatch, world_size: int) -> None:
    alone = list(IterationBatches(6, 1, 4))
    shares = []
    for rank in range(world_size):
        as_rank(monkeypatch, rank, world_size)
        shares.append(list(IterationBatches(6, 1, 4)))
    assert [list(itertools.chain(*parts)) for parts in zip(*shares, strict=True)] == alone


def test_a_batch_that_cannot_be_shared_out_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    as_rank(monkeypatch, 0, 2)
    with pytest.raises(ValueError, match=r"batch of 3 images .* 2 processes; make SOLVER.IMS_PER_BATCH"):
        IterationBatches(3, 0, 10)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_makes_no_difference(workers: int) -> None:
    settings = {"batch_size": 2, "start_iter": 1, "max_iter": 6, "seed": (3, 0)}
    alone = list(build_stream_loader(slices(5), draw, workers=0, **settings))
    assert list(build_stream_loader(slices(5), draw, workers=workers, **settings)) == alone
    assert [len(batch) for batch in alone] == [2] * 5


# ---- slices that cannot be read


def damaged(*unreadable: int) -> Callable:
    """A mapper like ``draw`` that cannot read some slices."""

    def read(d: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        sample = draw(d, rng)
        if d["slice"] in unreadable:
            raise VolumeError(f"file {d['slice']} is cut off.")
        return sample

    return read


def named_slices(number: int) -> list[dict[str, Any]]:
    return [{"slice": z, "image_id": f"a/{z}"} for z in range(number)]


def test_another_slice_takes_the_place_of_one_that_cannot_be_read() -> None:
    """Drawn from all others by seed and number alone; the other samples are what they were."""
    whole = SampleStream(named_slices(5), draw, (0,), max_corrupt=1)
    stream, again = (SampleStream(named_slices(5), damaged(2), (0,), max_corrupt=1) for _ in range(2))
    samples = [stream[n] for n in range(100)]
    assert samples == [again[n] for n in reversed(range(100))][::-1]
    replaced = [n for n in range(100) if whole[n]["slice"] == 2]
    assert {samples[n]["slice"] for n in replaced} == {0, 1, 3, 4}
    for n, sample in enumerate(samples):
        if n in replaced:
            assert sample.pop(SKIPPED) == {"a/2": "file 2 is cut off."}
            assert sample["random"] == whole[n]["random"]  # each try starts with the sample's own random numbers
        else:
            assert sample == whole[n]


def test_one_more_than_allowed_for_in_one_sample_is_an_error() -> None:
    stream = SampleStream(named_slices(5), damaged(0, 1, 2, 3), (0,), max_corrupt=4)
    assert {stream[n]["slice"] for n in range(20)} == {4}
    with pytest.raises(VolumeError, match=r"3 slices cannot be used, .*MAX_CORRUPT_SLICES allows for 2: a/"):
        [SampleStream(named_slices(5), damaged(0, 1, 2, 3), (0,), max_corrupt=2)[n] for n in range(20)]
    with pytest.raises(VolumeError, match=r"not one of 5 slices can be read: file \d is cut off"):
        SampleStream(named_slices(5), damaged(*range(5)), (0,), max_corrupt=9)[0]


def test_other_errors_are_no_corrupt_slices() -> None:
    def wrong(d: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        raise ValueError("a wrong setting")

    with pytest.raises(ValueError, match="a wrong setting"):
        SampleStream(named_slices(5), wrong, (0,), max_corrupt=9)[0]


@pytest.mark.parametrize("name", ["source/im/im0001.png", "source/mito-train-v2/seg0001.tif", "target/im/im0002.png"])
def test_neither_workers_nor_a_resume_change_what_takes_its_place(
    cfg: CfgNode, spoil: Callable[[str], Path], caplog: pytest.LogCaptureFixture, name: str
) -> None:
    path = spoil(name)
    cfg.SOLVER.MAX_ITER, cfg.DATALOADER.MAX_CORRUPT_SLICES = 8, 1
    with caplog.at_level(logging.WARNING):
        whole = load(cfg)
    warnings = [record.getMessage() for record in caplog.records if "is skipped" in record.getMessage()]
    assert len(warnings) == 1  # it was met more than once
    assert str(path) in warnings[0]
    assert_same(load(cfg, 2), whole[2:])
    cfg.DATALOADER.NUM_WORKERS = 2
    assert_same(load(cfg, 2), whole[2:])
    cfg.DATALOADER.MAX_CORRUPT_SLICES = 0
    with pytest.raises(VolumeError, match=re.escape(str(path))):
        load(cfg)


def test_source_and_target_are_counted_together(cfg: CfgNode, spoil: Callable[[str], Path]) -> None:
    source, target = spoil("source/im/im0001.png"), spoil("target/im/im0002.png")
    cfg.SOLVER.MAX_ITER, cfg.DATALOADER.MAX_CORRUPT_SLICES = 8, 1
    with pytest.raises(VolumeError, match=f"2 slices cannot be used.*{source}.*{target}"):
        load(cfg)
    cfg.DATALOADER.MAX_CORRUPT_SLICES = 2
    assert len(load(cfg)) == 8


# ---- source and target side by side


def no_points() -> dict[str, dict[int, np.ndarray]]:
    return {}


def load(cfg: CfgNode, start_iter: int = 0, points: Callable = no_points) -> list[tuple[list, list]]:
    loader = SourceTargetLoader(cfg, points)
    loader.start_iter = start_iter
    return list(loader)


def assert_same(a: Any, b: Any) -> None:
    """Batches of samples are equal to the bit."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a.keys() - {"geometric"}:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, torch.Tensor | np.ndarray):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    else:
        assert a == b


def test_burn_in_has_source_images_only(cfg: CfgNode) -> None:
    batches = load(cfg)
    assert [(len(source), len(target)) for source, target in batches] == [(2, 0)] * 3 + [(2, 3)] * 2
    assert {x["domain"] for source, _ in batches for x in source} == {"source"}
    assert {x["domain"] for _, target in batches for x in target} == {"target"}


@pytest.mark.parametrize("start_iter", [1, 3, 4, 5])
def test_a_run_that_was_stopped_goes_on_with_the_next_sample(cfg: CfgNode, start_iter: int) -> None:
    """During burn-in, between the stages, during adaptation, and at the end."""
    assert_same(load(cfg, start_iter), load(cfg)[start_iter:])


def test_two_processes_see_the_images_of_one(cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg.DATALOADER.TARGET_IMS_PER_BATCH = 4
    alone = load(cfg)
    shares = []
    for rank in (0, 1):
        as_rank(monkeypatch, rank, 2)
        shares.append(load(cfg))
    for (source, target), first, second in zip(alone, *shares, strict=True):
        assert_same(first[0] + second[0], source)
        assert_same(first[1] + second[1], target)


def test_source_and_target_are_drawn_independently(cfg: CfgNode) -> None:
    """Also where they are the same volume: with equal random numbers every pair would be one image twice."""
    cfg.DATASETS.TRAIN, cfg.DATALOADER.TARGET_IMS_PER_BATCH = (TARGET,), 2
    pairs = [
        (s["image_id"], s["box"]) == (t["image_id"], t["box"]) for b in load(cfg, 3) for s, t in zip(*b, strict=True)
    ]
    assert len(pairs) == 4
    assert not any(pairs)


def test_without_adaptation_there_is_no_target(cfg: CfgNode) -> None:
    cfg.DOMAIN_ADAPT.ENABLED = False
    cfg.DATASETS.TARGET = ("a volume that is not even there",)
    assert [(len(source), len(target)) for source, target in load(cfg)] == [(2, 0)] * 5


def test_each_stream_opens_at_the_iteration_that_needs_it() -> None:
    """Without a config: two streams of numbered batches."""
    opened: list[tuple[str, int]] = []

    def stream(name: str) -> Callable:
        def open_from(start_iter: int) -> Iterator[list[dict[str, Any]]]:
            opened.append((name, start_iter))
            return ([{name: i}] for i in range(start_iter, 4))

        return open_from

    loader = SourceTargetLoader(
        open_source=stream("s"), open_target=stream("t"), max_iter=4, adapt_from=2, corrupt=CorruptSlices(0)
    )
    loader.start_iter = 1
    assert list(loader) == [([{"s": 1}], []), ([{"s": 2}], [{"t": 2}]), ([{"s": 3}], [{"t": 3}])]
    assert opened == [("s", 1), ("t", 2)]


def test_sparse_points_are_read_when_burn_in_ends_and_not_before(cfg: CfgNode) -> None:
    """The unsupervised mode makes them only then."""
    asked: list[int] = []
    seen = 0
    loader = SourceTargetLoader(cfg, lambda: asked.append(seen) or {})
    for _ in loader:
        seen += 1
    assert asked == [3]


def test_target_samples_carry_the_sparse_points(cfg: CfgNode) -> None:
    points = {TARGET: {z: np.array([[10.5, 20.5]], np.float32) for z in range(6)}}
    cfg.INPUT.FOREGROUND_PROBABILITY = 1.0
    for _, target in load(cfg, 3, lambda: points):
        for x in target:
            y0, x0, _, _ = x["box"]
            assert x["sparse_points"].tolist() == [[10.5 - x0, 20.5 - y0]]


def test_nothing_is_opened_before_the_first_batch(cfg: CfgNode) -> None:
    cfg.DATASETS.TRAIN = ("a volume that is not even there",)
    loader = iter(SourceTargetLoader(cfg, no_points))
    with pytest.raises(ValueError, match="not even there"):
        next(loader)


# ---- slices


def test_slices_of_several_data_sets_follow_each_other(synthetic_data: Path) -> None:
    names = [d["dataset_name"] for d in get_slices((TARGET, f"{SOURCE}[1:3]"))]
    assert names == [TARGET] * 4 + [f"{SOURCE}[1:3]"] * 2


def test_no_data_set_is_no_training() -> None:
    with pytest.raises(ValueError, match=r"data ?sets \[\] have no slices; check DATASETS"):
        get_slices(())


# ---- evaluation


def test_slices_for_evaluation_come_one_by_one_and_in_order(cfg: CfgNode) -> None:
    batches = list(build_test_loader(cfg, "synthetic_target_val"))
    assert [len(batch) for batch in batches] == [1, 1]
    assert [batch[0]["image_id"] for batch in batches] == [d["image_id"] for d in get_slices(("synthetic_target_val",))]
    assert batches[0][0]["image"].shape == (1, 96, 96)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", ["target/im/im0005.png", "target/mito-val-v2/seg0005.tif"])
def test_no_slice_is_left_out_of_an_evaluation(
    cfg: CfgNode, spoil: Callable[[str], Path], workers: int, name: str
) -> None:
    """A smaller test set would give other results, and nobody would notice."""
    path = spoil(name)
    cfg.DATALOADER.MAX_CORRUPT_SLICES, cfg.DATALOADER.NUM_WORKERS = 9, workers
    with pytest.raises(VolumeError, match=f"cannot be evaluated, and is not skipped.*{path}.*check-data"):
        list(build_test_loader(cfg, "synthetic_target_val"))


def test_a_volume_without_labels_cannot_be_evaluated(cfg: CfgNode, unlabeled: str) -> None:
    with pytest.raises(
        ValueError, match=f"{unlabeled} has no labels, so it cannot be evaluated; use `prompt-das predict`"
    ):
        build_test_loader(cfg, unlabeled)
