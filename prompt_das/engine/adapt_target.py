"""The target of an adaptation: the volume as a data set, and its clicks, of which some are kept aside to watch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prompt_das.adaptation.click_advice import require_usable
from prompt_das.adaptation.held_out_clicks import split_clicks
from prompt_das.data.datasets import register_slices
from prompt_das.data.physical_scale import scale_of_diameter
from prompt_das.data.slices import open_image_volume
from prompt_das.inference.volume.source import VolumeSource, keep_prompts
from prompt_das.volumes.address import as_location
from prompt_das.volumes.point_files import SliceClicks, read_clicks, write_points

import numpy as np
from detectron2.config import CfgNode

ANY_NUMBER = 2**31  # of slices
TRAIN_CLICKS, HELD_OUT_CLICKS = "clicks_train.json", "clicks_held_out.json"


@dataclass(frozen=True)
class Target:
    """The volume to adapt to, as it is registered, with the clicks on it; None: the network makes points itself."""

    name: str
    slices: list[dict[str, Any]]
    clicks: SliceClicks | None
    file: str  # of the clicks, for messages
    files: tuple[Path, ...]  # all that is read: the images, their description, the clicks


def find_target(volume: VolumeSource, cfg: CfgNode) -> Target:
    """Register the volume and read the clicks on it; ``cfg``: of the network.

    Raises:
        FileNotFoundError, ValueError: no volume or clicks, or some that cannot be used; says what to do.
    """
    voxel_size = volume.voxel_size
    if volume.diameter is not None:
        # Not as INPUT.SCALE, which would hold for a source as well.
        voxel_size = (scale_of_diameter(cfg, volume.diameter) * cfg.INPUT.PIXEL_SIZE,) * 3
    slices, spec, _ = volume.find(voxel_size)
    if not slices:
        raise ValueError(f"{volume.volume} has no slices")
    name = register_slices(slices, spec)
    slices = [{**dataset_dict, "dataset_name": name} for dataset_dict in slices]
    file = volume.points or spec.points
    named = [as_location(path) for path in (slices[0]["file_name"], volume.volume, file) if path is not None]
    files = tuple(path for path in named if isinstance(path, Path) and path.exists())  # no address is written over
    if file is None:
        return Target(name, slices, None, "", files)
    whole = open_image_volume({**slices[0], "box": None})
    clicks = read_clicks(file, whole.slice_names, num_slices=ANY_NUMBER)  # the checks below say more
    used = {dataset_dict["slice"] for dataset_dict in slices}
    require_usable(str(file), clicks, whole.shape, used)
    clicks = keep_prompts(file, clicks, slices)
    require_usable(str(file), clicks, whole.shape, used)  # again, since a region may have fewer
    return Target(name, slices, clicks, str(file), files)


def keep_aside(target: Target, folder: Path, seed: int, *, resume: bool) -> SliceClicks:
    """Split the clicks into two files of the folder -> those that are held out.

    Raises:
        ValueError: the adaptation that is resumed was begun with other clicks.
    """
    assert target.clicks is not None
    train, held_out = split_clicks(target.clicks, seed)
    for file, clicks in ((folder / TRAIN_CLICKS, train), (folder / HELD_OUT_CLICKS, held_out)):
        if not resume:
            write_points(file, clicks, dataset=target.name, seed=seed)
        elif not same_clicks(read_clicks(file), clicks):
            raise ValueError(
                f"{target.file} or --seed is not what the adaptation in {folder} was begun with: resume it with the "
                "same ones, or begin anew with --overwrite"
            )
    return held_out


def same_clicks(a: SliceClicks, b: SliceClicks) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[z], b[z]) for z in a)
