"""Maps of small volumes, labeled as `prompt-das predict` labels those of the network."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from prompt_das.inference.volume import instances
from prompt_das.inference.volume.block_labels import InstanceRule
from prompt_das.inference.volume.executors import Executor, run_here
from prompt_das.inference.volume.found_instances import FoundInstances
from prompt_das.inference.volume.instances import label_instances
from prompt_das.inference.volume.linking import Block, Components, split_into_blocks
from prompt_das.inference.volume.store import STORE, StoreLayout, prepare_store
from prompt_das.inference.volume.workspace import Workspace
from prompt_das.volumes.ome_zarr import INSTANCES, finest

import numpy as np
import scipy.ndimage
import zarr
from hypothesis import strategies as st

MAPS = ("probability", "density")


class LabeledMaps(NamedTuple):
    """Labels (Z, H, W), the n instances, and their points (n, 3)."""

    labels: np.ndarray
    instances: Components
    points: np.ndarray


def label_stored_maps(
    probability: np.ndarray, density: np.ndarray, rule: InstanceRule, executor: Executor = run_here
) -> LabeledMaps:
    """Label maps (Z, H, W) in uint8."""
    with tempfile.TemporaryDirectory() as folder, stored_maps(Path(folder), probability, density) as (work, layout):
        return read_labels(work, label_instances(work, layout, rule, executor, progress=False))


@contextmanager
def stored_maps(folder: Path, probability: np.ndarray, density: np.ndarray) -> Iterator[tuple[Workspace, StoreLayout]]:
    """A job in ``folder`` whose slices are predicted."""
    layout = StoreLayout(probability.shape, MAPS, None, {})
    with Workspace(folder / "out.zarr", {}) as work:
        group = prepare_store(work, layout)
        for name, values in zip(MAPS, (probability, density), strict=True):
            finest(group, name)[:] = values
        yield work, layout


def read_labels(work: Workspace, found: FoundInstances) -> LabeledMaps:
    """What is stored of found instances."""
    labels = zarr.open_group(str(work.folder / STORE), mode="r")[INSTANCES]
    parts = list(found)
    assert np.concatenate([some.ids for some in parts]).tolist() == list(range(1, len(found) + 1))
    components = Components(
        *(np.concatenate(values) for values in zip(*(vars(some.components).values() for some in parts), strict=True))
    )
    return LabeledMaps(np.asarray(labels), components, np.concatenate([some.points for some in parts]))


@contextmanager
def blocks_of(slices: int) -> Iterator[None]:
    """All volumes in blocks of so many slices."""

    def plan(depth: int, *, linked: bool) -> list[Block]:
        return split_into_blocks(Block(0, depth, depth), slices, linked=linked)

    with mock.patch.object(instances, "plan_blocks", plan):
        yield


def peaks(size: tuple[int, int, int], *places: tuple[slice, tuple[int, int]], sigma: float = 4.0) -> np.ndarray:
    """Density (Z, H, W) in uint8 with a peak at each place (slices, (y, x))."""
    density = np.zeros(size)
    y, x = np.mgrid[: size[1], : size[2]]
    for slices, (cy, cx) in places:
        density[slices] = np.maximum(density[slices], np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * sigma**2)))
    return np.uint8(np.round(255 * density))


@st.composite
def random_maps(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Probability and density (Z, 24, 24) in uint8."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    size = (draw(st.integers(1, 6)), 24, 24)
    noise = scipy.ndimage.gaussian_filter(rng.normal(size=size), (0.7, 3, 3))
    probability = np.uint8(np.clip(128 + 900 * noise, 0, 255))
    density = np.zeros(size, np.uint8)
    for z in range(size[0]):
        places: list[Any] = rng.integers(0, 24, (6, 2)).tolist()
        density[z] = peaks((1, *size[1:]), *((slice(0, 1), tuple(place)) for place in places), sigma=2)[0]
    return probability, density
