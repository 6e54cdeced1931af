"""One physical scale: from the voxel size of a volume, or the size of its objects, to network pixels per image pixel.

A network segments objects of the size that it was trained on. With INPUT.PIXEL_SIZE every volume is resampled from its
own voxel size to the same pixels, in training as in prediction; without it INPUT.SCALE holds for all volumes alike.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

from prompt_das.data.samples import DatasetDict

import numpy as np
from detectron2.config import CfgNode

logger = logging.getLogger(__name__)

MOST_ANISOTROPIC = 1.05  # ratio of the sides of a pixel up to which it counts as a square
SANE_SCALE = (1 / 64, 8.0)  # network pixels per image pixel
MICROMETERS = 0.5  # a voxel that is smaller on all sides, in nm, is one whose size is given in micrometers
SIZE_FACTOR = 2.0  # between expected and found diameters: beyond it, a warning
ENOUGH_INSTANCES = 5  # to speak of a typical size
_NOT_PHYSICAL = (
    "needs a network that was trained at one physical scale, and this one was not (INPUT.PIXEL_SIZE is 0): set "
    "INPUT.SCALE, network pixels per image pixel, instead"
)


@dataclass(frozen=True)
class NetworkScale:
    """Network pixels per image pixel, for volumes of any voxel size.

    Attributes:
        scale: INPUT.SCALE. Other than 1 it holds for every volume, whatever ``pixel_size`` says.
        pixel_size: INPUT.PIXEL_SIZE, nm of a pixel of the network; 0 for none: then ``scale`` holds.
    """

    scale: float = 1.0
    pixel_size: float = 0.0

    @classmethod
    def from_config(cls, cfg: CfgNode) -> NetworkScale:
        return cls(cfg.INPUT.SCALE, cfg.INPUT.PIXEL_SIZE)

    @property
    def needs_voxel_size(self) -> bool:
        """Whether the scale of a volume follows from its voxel size."""
        return self.pixel_size > 0 and self.scale == 1

    def of(self, voxel_size: Sequence[float] | None, name: str) -> float:
        """The scale of a volume.

        Args:
            voxel_size: (z, y, x) in nm; None if it is not known.
            name: of the volume, for messages.

        Raises:
            ValueError: the voxel size is needed and not known, its pixels are not squares, or it can hardly be true.
        """
        if not self.needs_voxel_size:
            return self.scale
        if voxel_size is None:
            raise ValueError(
                f"{name}: its voxel size is not known, and the network takes pixels of {self.pixel_size:g} nm "
                "(INPUT.PIXEL_SIZE): give --voxel-size Z Y X in nm (`voxel_size` in its description), or --diameter D, "
                "the typical diameter of an object in pixels of the image as stored"
            )
        require_nanometers(voxel_size, name)
        _, y, x = voxel_size
        if max(y, x) > MOST_ANISOTROPIC * min(y, x):
            raise ValueError(
                f"{name}: its pixels are {y:g} x {x:g} nm (y, x); the network takes square ones: resample the volume, "
                "or check the order of its voxel size, which is z, y, x"
            )
        return sane_scale(math.sqrt(y * x) / self.pixel_size, f"{name}: pixels of {y:g} x {x:g} nm")

    def of_slice(self, dataset_dict: DatasetDict) -> float:
        """The scale of a slice (see :mod:`prompt_das.data.slices`). Raises as :meth:`of`."""
        return self.of(dataset_dict.get("voxel_size"), dataset_dict.get("dataset_name", "volume"))


def require_nanometers(voxel_size: Sequence[float], name: str) -> None:
    """Raise ValueError for a voxel size (z, y, x) that looks like micrometers; in nm it would be that of atoms."""
    if max(voxel_size) < MICROMETERS:
        size = " ".join(f"{side:g}" for side in voxel_size)
        raise ValueError(
            f"{name}: the voxel size is in nanometers; {size} looks like µm: that is "
            f"{' '.join(f'{1000 * side:g}' for side in voxel_size)} nm"
        )


def sane_scale(scale: float, given: str) -> float:
    """``scale``, network pixels per image pixel. Raises ValueError for one that can hardly be meant."""
    low, high = SANE_SCALE
    if not low <= scale <= high:
        cause = "is a size in µm given as nm, or the other way round?" if scale > high else "is it really in nm?"
        raise ValueError(
            f"{given} would make {scale:.3g} pixels of the network out of one (sensible are 1/64 to 8): {cause} "
            "Voxel sizes are in nm, pixels of the network in INPUT.PIXEL_SIZE, diameters in pixels of the image"
        )
    return scale


def scale_of_diameter(cfg: CfgNode, diameter: float) -> float:
    """The scale at which objects of this typical diameter, in pixels of the image, are as large as in training.

    Raises:
        ValueError: no diameter, one that cannot be, or a network that was not trained at one physical scale.
    """
    if cfg.INPUT.PIXEL_SIZE <= 0:
        raise ValueError(f"a diameter {_NOT_PHYSICAL}")
    if not (math.isfinite(diameter) and diameter > 0):
        raise ValueError(f"the diameter is {diameter:g}; give the diameter of a typical object, in pixels of the image")
    return sane_scale(cfg.INPUT.DIAMETER / diameter, f"a diameter of {diameter:g} pixels")


def default_scale(cfg: CfgNode, pixel_size: float | None, diameter: float | None) -> float | None:
    """The scale of images that come without metadata; None where the network needs their pixel size.

    Args:
        pixel_size: side of a pixel in nm, if it is known.
        diameter: typical diameter of an object in pixels of the image, if that is what is known.

    Raises:
        ValueError: a size that can hardly be meant, both, or a network that was not trained at one physical scale.
    """
    network = NetworkScale.from_config(cfg)
    if pixel_size is not None and diameter is not None:
        raise ValueError("give pixel_size or diameter, not both: each decides the scale alone")
    if diameter is not None:
        return scale_of_diameter(cfg, diameter)
    if pixel_size is None:
        return None if network.needs_voxel_size else network.scale
    if network.pixel_size <= 0:
        raise ValueError(f"pixel_size {_NOT_PHYSICAL}")
    if not (math.isfinite(pixel_size) and pixel_size > 0):
        raise ValueError(f"pixel_size is {pixel_size:g}; give the side of a pixel in nm")
    return NetworkScale(pixel_size=network.pixel_size).of((pixel_size,) * 3, "pixel_size")


def require_one_volume(names: Sequence[str]) -> None:
    """Raise ValueError where a diameter would be that of several volumes."""
    if len(names) > 1:
        raise ValueError(f"--diameter is of one volume, not of {', '.join(names)}; name the one that is meant")


def with_diameter(cfg: CfgNode, diameter: float) -> list[str]:
    """Settings (KEY VALUE ...) that fix the scale for objects of a diameter, see :func:`scale_of_diameter`."""
    # 1.0 alone would leave the decision to PIXEL_SIZE.
    return ["INPUT.SCALE", repr(scale_of_diameter(cfg, diameter)), "INPUT.PIXEL_SIZE", "0.0"]


def warn_of_size(cfg: CfgNode, areas: np.ndarray, scale: float, name: str) -> None:
    """Log a warning if found objects are of another size than those that the network was trained on.

    Args:
        areas: (N,) of instances, each in one slice, in pixels of the image.
        scale: network pixels per image pixel with which they were found.
        name: of the volume.
    """
    if cfg.INPUT.PIXEL_SIZE <= 0 or len(areas) < ENOUGH_INSTANCES:
        return  # DIAMETER means something at one physical scale only
    # Half of the foreground is in larger ones: specks are many, and say nothing of the size of objects.
    ordered = np.sort(np.asarray(areas))
    typical = ordered[np.searchsorted(ordered.cumsum(), ordered.sum() / 2)]
    found = 2 * math.sqrt(typical / math.pi)
    ratio = found * scale / cfg.INPUT.DIAMETER
    if not 1 / SIZE_FACTOR <= ratio <= SIZE_FACTOR:
        logger.warning(
            "%s: what was found has a typical diameter of %.1f pixels (%.1f of the network), but the network knows "
            "objects of about %.1f of its pixels (INPUT.DIAMETER). Is the voxel size right? If objects are in truth "
            "of another size in the image, say so with --diameter, in pixels",
            *(name, found, found * scale, cfg.INPUT.DIAMETER),
        )
