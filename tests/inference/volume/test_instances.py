"""Instances found, linked and written block by block: the same however a volume is cut, by whom, and how often stopped.

Shapes: Z, H, W slices, height and width.
"""

from __future__ import annotations

import pickle
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from prompt_das.inference.volume.block_files import BlockFiles
from prompt_das.inference.volume.block_labels import InstanceRule, labeling_of
from prompt_das.inference.volume.borders import Border, link_borders
from prompt_das.inference.volume.center_instances import CenterRule
from prompt_das.inference.volume.durable import check_receipts
from prompt_das.inference.volume.executors import AT_ONCE, Work
from prompt_das.inference.volume.instances import label_instances, plan_blocks
from prompt_das.inference.volume.linking import Block
from prompt_das.inference.volume.measured_block import MeasuredBlock, measure
from prompt_das.inference.volume.workspace import Workspace

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from stored_maps import LabeledMaps, blocks_of, label_stored_maps, random_maps, read_labels, stored_maps

CENTERS = CenterRule(0.5, 0.49, 5, {})


def elsewhere(work: Work, items: Sequence[Any], *, at_once: int = AT_ONCE) -> Iterator[Any]:
    """Another process for each item, which knows what was sent to it alone; the last ones first."""
    for item in reversed(items):
        work_there, item_there = pickle.loads(pickle.dumps((work, item)))  # noqa: S301
        yield from work_there([item_there])


def assert_same(one: LabeledMaps, other: LabeledMaps) -> None:
    np.testing.assert_array_equal(one.labels, other.labels)
    assert one.labels.dtype == other.labels.dtype
    np.testing.assert_array_equal(one.points, other.points)
    for name, values in vars(one.instances).items():
        np.testing.assert_array_equal(values, getattr(other.instances, name), err_msg=name)


@settings(max_examples=12)
@given(
    maps=random_maps(),
    slices=st.integers(1, 4),
    centers=st.booleans(),
    linked=st.booleans(),
    min_size=st.sampled_from([0, 12]),
)
def test_stitched_equals_whole(
    maps: tuple[np.ndarray, np.ndarray], slices: int, centers: bool, linked: bool, min_size: int
) -> None:
    """Ids, numbers and points do not depend on how a volume is cut into blocks, or on who works on them."""
    rule = InstanceRule(0.5, min_size, linked, CENTERS if centers else None)
    with blocks_of(len(maps[0])):
        whole = label_stored_maps(*maps, rule)
    with blocks_of(slices):
        assert_same(label_stored_maps(*maps, rule, elsewhere), whole)


def test_blocks_are_few_in_a_deep_volume_and_enough_for_workers_in_a_shallow_one() -> None:
    assert len(plan_blocks(20_000, linked=True)) == 313
    assert len(plan_blocks(40, linked=True)) == 8
    assert plan_blocks(1, linked=True) == [Block(0, 1, 1)]


# ---- linking needs the borders alone


def pillars_and_specks(specks: int) -> np.ndarray:
    """(32, 40, 40): 16 pillars through all slices, and so many specks in the middle of each block of 8."""
    probability = np.zeros((32, 40, 40), np.uint8)
    probability[:, ::10, ::10] = 200
    places = [(y, x) for y in range(2, 40, 2) for x in range(2, 40, 2) if y % 10 and x % 10][:specks]
    for start in range(0, 32, 8):
        for y, x in places:
            probability[start + 4, y, x] = 200
    return probability


def measured_blocks(folder: Path, probability: np.ndarray) -> list[MeasuredBlock]:
    rule = InstanceRule(0.5, 0)
    with stored_maps(folder, probability, 0 * probability) as (work, _):
        labeling = labeling_of(zarr.open_group(str(work.folder / "volume.zarr"), mode="r"), rule)
        blocks = [Block(z, z + 8, min(z + 9, 32)) for z in range(0, 32, 8)]
        return [measure(labeling, block, rule)[0] for block in blocks]


def test_what_is_linked_does_not_grow_with_what_lies_inside_the_blocks(tmp_path: Path) -> None:
    sizes, peak = [], []
    for specks in (3, 200):
        blocks = measured_blocks(tmp_path / str(specks), pillars_and_specks(specks))
        assert [len(block.components) for block in blocks] == [16 + specks] * 4
        borders = [Border.of(block, 0) for block in blocks]
        sizes.append([len(border.before) for border in borders])
        tracemalloc.start()
        ids, at_border = link_borders(borders, 0)
        peak.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert sum(one.count for one in ids) == 16 + 4 * specks
        assert len(at_border.ids) == 16
    assert sizes == [[16] * 4] * 2
    assert peak[1] < 1.1 * peak[0]


# ---- stopped and started again


class StopError(Exception):
    pass


@pytest.fixture
def maps(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    probability, density = rng.integers(0, 256, (2, 9, 20, 20), dtype=np.uint8)
    return probability, density


@pytest.mark.parametrize("centers", [None, CENTERS])
def test_stopped_after_any_line_of_the_journal_it_goes_on_with_what_is_missing(
    maps: tuple[np.ndarray, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, centers: CenterRule | None
) -> None:
    rule = InstanceRule(0.5, 2, True, centers)
    whole = label_stored_maps(*maps, rule)
    with blocks_of(3), stored_maps(tmp_path, *maps) as (work, layout):
        original, worked, lines = Workspace.log, [], 0

        def stop(self: Workspace, **what: Any) -> None:
            original(self, **what)
            raise StopError

        def counted(work: Any, items: Any, **options: Any) -> Any:
            for result in work(items):
                if work is not check_receipts:
                    worked.append(result)
                yield result

        monkeypatch.setattr(Workspace, "log", stop)
        while True:
            try:
                found = label_instances(work, layout, rule, counted, progress=False)
                break
            except StopError:
                lines += 1
        assert lines == 7  # three blocks found, labels made, three blocks written
        assert len(worked) == 6
        assert_same(read_labels(work, found), whole)


def test_a_file_of_a_block_that_is_damaged_is_made_again(maps: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    rule = InstanceRule(0.5, 2)
    with blocks_of(3), stored_maps(tmp_path, *maps) as (work, layout):
        before = read_labels(work, label_instances(work, layout, rule, progress=False))
        files = BlockFiles(str(work.folder / "blocks"))
        for path in (files.found(Block(0, 3, 4)), files.points(Block(3, 6, 7))):
            path.write_bytes(path.read_bytes()[:100])
        (work.folder / "volume.zarr" / "labels" / "instances" / "0" / "7" / "0" / "0").write_bytes(b"")
        assert_same(read_labels(work, label_instances(work, layout, rule, progress=False)), before)


def test_another_slice_makes_all_blocks_anew(maps: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    rule = InstanceRule(0.5, 2)
    probability, density = maps
    with blocks_of(3), stored_maps(tmp_path, *maps) as (work, layout):
        label_instances(work, layout, rule, progress=False)
        other = probability.copy()
        other[4] = 255
        zarr.open_group(str(work.folder / "volume.zarr"), mode="r+")["probability/0"][4] = other[4]
        work.log(slice=4, receipt={})
        found = label_instances(work, layout, rule, progress=False)
        assert_same(read_labels(work, found), label_stored_maps(other, density, rule))


def test_ids_fill_the_type_they_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkerboard of 90 000 voxels: more than 16 bits hold."""
    probability = np.zeros((2, 600, 600), np.uint8)
    probability[0, ::2, ::2] = 255
    labeled = label_stored_maps(probability, 0 * probability, InstanceRule(0.5, 0))
    assert labeled.labels.dtype == np.uint32
    assert labeled.labels.max() == len(labeled.points) == 90_000
