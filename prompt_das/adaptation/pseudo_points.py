"""Unsupervised mode: the source model makes the sparse points itself when burn-in ends (Prompt-DAS, Sec. 2.2)."""

from __future__ import annotations

import logging
import math
from functools import partial
from pathlib import Path
from typing import Any

from prompt_das.config.schedule import adaptation_start
from prompt_das.data.build import get_slices
from prompt_das.data.corrupt_slices import CorruptSlices
from prompt_das.data.physical_scale import NetworkScale
from prompt_das.data.slices import read_image
from prompt_das.modeling.meta_arch import PromptDAS
from prompt_das.ops.points import find_peaks
from prompt_das.ops.sliding_window import sliding_window
from prompt_das.volumes.point_files import SlicePoints, read_points, write_points

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm

logger = logging.getLogger(__name__)

# Of a slice by discs of radius 2 sigma around its points. Mitochondria cover 4 to 8 % of tissue (MitoEM), rarely 15.
MAX_COVERED = 0.3


@torch.no_grad()
def predict_points(model: PromptDAS, image: np.ndarray, scale: float, peaks: dict[str, Any]) -> np.ndarray:
    """The center points (N, 2) that ``model`` finds on a preprocessed slice (H', W') by itself; in slice pixels.

    ``scale``: network pixels per slice pixel; ``peaks``: keyword arguments of :func:`prompt_das.ops.points.find_peaks`.
    """

    def density_of(windows: torch.Tensor, points: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        size = (windows.shape[-2], windows.shape[-1])
        no_points, none_valid = windows.new_zeros(len(windows), 0, 2), valid.new_zeros(len(windows), 0)
        density = model.decode(model.encode(windows), no_points, none_valid, size, with_mask=False).density
        return density[:, None]

    resized = torch.from_numpy(image)[None]
    density = sliding_window(resized.to(model.device), density_of, points=None, valid=None, **model.window)
    points, valid, _ = find_peaks(density, **peaks)
    return points[valid].cpu().numpy() / scale


def makes_pseudo_points(cfg: CfgNode) -> bool:
    """Whether the source model makes the sparse points: in an adaptation for which none are given or drawn."""
    node = cfg.DATASETS.SPARSE_POINTS
    return cfg.DOMAIN_ADAPT.ENABLED and node.RATIO == 0 and not node.FILE


class PseudoSparsePoints(HookBase):
    """Writes the teacher's points of every target slice to ``OUTPUT_DIR`` before the first adaptation step.

    A run that is resumed later reads these files and keeps them. Slices that cannot be read get no points, as far
    as ``DATALOADER.MAX_CORRUPT_SLICES`` allows for them.
    """

    def __init__(self, cfg: CfgNode, teacher: PromptDAS, corrupt: CorruptSlices | None = None) -> None:
        node = cfg.DOMAIN_ADAPT
        self.teacher = teacher
        self.names = cfg.DATASETS.TARGET
        self.output_dir = Path(cfg.OUTPUT_DIR)
        self.adapt_from = adaptation_start(cfg)
        self.scale = NetworkScale.from_config(cfg)
        self.sigma = cfg.MODEL.CENTER_HEAD.SIGMA  # in pixels of the network
        self.corrupt = corrupt or CorruptSlices(cfg.DATALOADER.MAX_CORRUPT_SLICES)
        # A whole slice may hold far more instances than a crop, so top-K only bounds the memory here.
        self.peaks = {"threshold": node.POINTS.UDA_THRESHOLD, "kernel": node.POINTS.KERNEL, "top_k": 4096}

    def path(self, name: str) -> Path:
        return self.output_dir / f"pseudo_points_{name}.json"

    def before_step(self) -> None:
        if self.trainer.iter == self.adapt_from:
            for name in self.names:
                self.write(name)

    def write(self, name: str) -> None:
        """Predict and write the points of a dataset, each rank those of its part of the slices."""
        slices = get_slices((name,))
        scale = self.scale.of_slice(slices[0])
        read = partial(read_image, scale=scale)
        mine = {
            dataset_dict["slice"]: predict_points(self.teacher, image, scale, self.peaks)
            for dataset_dict, image in self.corrupt.read(slices[comm.get_rank() :: comm.get_world_size()], read)
        }
        gathered: SlicePoints = {}
        for part in comm.all_gather(mine):
            gathered.update(part)
        if comm.is_main_process():
            write_points(self.path(name), gathered, dataset=name)
            number = sum(map(len, gathered.values()))
            logger.info("%s: the source model made %d points on %d slices", name, number, len(slices))
            if not number:
                logger.warning(
                    "The source model found no center point on %s: adaptation starts without any. Longer burn-in, or a "
                    "lower DOMAIN_ADAPT.POINTS.UDA_THRESHOLD, may help.",
                    name,
                )
            height, width = slices[0]["height"], slices[0]["width"]
            covered = number * math.pi * (2 * self.sigma / scale) ** 2 / (len(slices) * height * width)
            if covered > MAX_COVERED:
                logger.warning(
                    "The source model made %d points on %d slices of %s: discs of radius 2 sigma around them would "
                    "cover %.0f %% of the tissue, more than any organelle does. Check that the target's scale and "
                    "contrast are the source's (INPUT.PIXEL_SIZE or SCALE, `prompt-das visualize`), or try longer "
                    "burn-in or a higher DOMAIN_ADAPT.POINTS.UDA_THRESHOLD.",
                    *(number, len(slices), name, 100 * covered),
                )
        comm.synchronize()

    def read(self) -> dict[str, SlicePoints]:
        """The points of every target dataset, as written before."""
        return {name: read_points(self.path(name)) for name in self.names}
