"""From a dataset dict (one slice) to what the network takes: a training crop, or a whole slice for evaluation.

Everything random comes from the generator that is passed in, so sample ``n`` of a run is the same whoever loads it.
"""

from __future__ import annotations

from dataclasses import dataclass

from prompt_das.data.augmentation import StrongAugmentation
from prompt_das.data.clicks import ClickSimulator
from prompt_das.data.crop_reader import CropReader
from prompt_das.data.physical_scale import NetworkScale
from prompt_das.data.pixel_maps import forward_pixel_map, inverse_pixel_map
from prompt_das.data.samples import DatasetDict, SliceSample, SourceSample, TargetSample
from prompt_das.data.slices import read_image, read_labels
from prompt_das.ops.connected_components import connected_components
from prompt_das.ops.points import as_clicks, instance_centers, sample_sparse_points
from prompt_das.volumes.point_files import SlicePoints
from prompt_das.volumes.synthetic_tissue.micrograph import make_micrograph
from prompt_das.volumes.volume import Box, VolumeError

import numpy as np
import torch
from detectron2.config import CfgNode, configurable

MAX_CROP_TRIES = 10
NO_POINTS = np.zeros((0, 2), np.float32)


def random_subset(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random subset of (n, 2) points whose size is uniform in {0 ... n} (Prompt-DAS, Sec. 2.1)."""
    return points[rng.permutation(len(points))[: rng.integers(len(points) + 1)]]


@dataclass(frozen=True)
class LabeledCrop:
    """A crop with the truth about it.

    Attributes:
        box: (y0, x0, y1, x1) in pixels of the slice.
        image: (H, W) float32 in 0..255.
        labels: (H, W) integers, 0 where there is no organelle. With ``objects`` they are ids of instances, else the
            instances are the connected components.
        objects: (H, W) int32 ids of what else may be clicked in the image, where that is known.
    """

    box: Box
    image: np.ndarray
    labels: np.ndarray
    objects: np.ndarray | None = None


class SourceMapper:
    """A labeled crop, strongly augmented, with all of its center points and clicks.

    Without ``clicks`` the prompts are a random subset of the centers, and the target is the mask (the paper).
    """

    @configurable
    def __init__(
        self,
        *,
        crop: CropReader,
        augmentation: StrongAugmentation,
        foreground_probability: float,
        clicks: ClickSimulator | None = None,
        synthetic_pixel_size: float = 0.0,
    ) -> None:
        """``synthetic_pixel_size``: of micrographs, in nm; 0: that of the network."""
        self.synthetic_pixel_size = synthetic_pixel_size
        self.clicks = clicks
        self.crop = crop
        self.augmentation = augmentation
        self.foreground_probability = foreground_probability

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        return {
            "crop": CropReader.from_config(cfg),
            "augmentation": StrongAugmentation(cfg),
            "foreground_probability": cfg.INPUT.FOREGROUND_PROBABILITY,
            "clicks": ClickSimulator.from_config(cfg),
            "synthetic_pixel_size": cfg.INPUT.SYNTHETIC_PIXEL_SIZE,
        }

    def __call__(self, dataset_dict: DatasetDict, rng: np.random.Generator) -> SourceSample:
        read = self._draw if dataset_dict.get("synthetic") else self._read
        crop = read(dataset_dict, rng)
        geometric, photometric = self.augmentation(rng, *crop.image.shape)
        image = photometric.apply_image(geometric.apply_image(crop.image))
        labels = geometric.apply_segmentation(crop.labels)
        instances = connected_components(labels) if crop.objects is None else labels
        if self.clicks is None:
            mask = (instances > 0).astype(np.uint8)
            _, points = instance_centers(instances)
            prompts = as_clicks(random_subset(points, rng))
        else:
            objects = None if crop.objects is None else geometric.apply_segmentation(crop.objects)
            mask, points, prompts = self.clicks(image, instances, rng, objects)
        return {
            "domain": "source",
            "image_id": dataset_dict["image_id"],
            "box": crop.box,
            "image": torch.from_numpy(np.ascontiguousarray(image, np.float32))[None],
            "mask": torch.from_numpy(np.ascontiguousarray(mask)),
            "points": torch.from_numpy(points),
            "prompts": torch.from_numpy(prompts),
        }

    def _read(self, dataset_dict: DatasetDict, rng: np.random.Generator) -> LabeledCrop:
        """A crop of a labeled slice."""
        crop = self.crop.for_slice(dataset_dict)
        wants_foreground = rng.random() < self.foreground_probability
        for _ in range(MAX_CROP_TRIES):  # the slice's labels are never read whole: draw again instead
            box = crop.box(dataset_dict, rng)
            labels = read_labels(dataset_dict, box)
            if not wants_foreground or labels.any():
                break
        return LabeledCrop(box, crop.read_image(dataset_dict, box), crop.fit_mask(labels))

    def _draw(self, dataset_dict: DatasetDict, rng: np.random.Generator) -> LabeledCrop:
        """A synthetic micrograph, of the size of a crop; at one physical scale in the pixels of the network."""
        size, scale = self.crop.size, self.crop.network_scale
        of_network = scale.pixel_size if scale.needs_voxel_size else dataset_dict["voxel_size"][1]
        drawn = make_micrograph(rng, size, self.synthetic_pixel_size or of_network)
        return LabeledCrop(
            (0, 0, size, size),
            drawn.image.astype(np.float32),
            drawn.mitochondria.astype(np.int32),
            drawn.compact_objects().astype(np.int32),
        )


class TargetMapper:
    """An unlabeled crop with the sparse points inside it: a weak view for the teacher, a strong one for the student.

    Pixel maps come with it, to warp the teacher's prediction into the strong view on the device where it is.
    """

    @configurable
    def __init__(
        self,
        *,
        crop: CropReader,
        augmentation: StrongAugmentation,
        foreground_probability: float,
        sparse_points: dict[str, SlicePoints],
        negative_clicks: dict[str, SlicePoints] | None = None,
        unprompted_probability: float = 0.0,
    ) -> None:
        """
        Args:
            sparse_points, negative_clicks: for each dataset name, slice index -> (N, 2) points.
            unprompted_probability: of a crop on which the student gets no prompt, beyond those that draw none.
        """
        self.unprompted_probability = unprompted_probability
        self.crop = crop
        self.augmentation = augmentation
        self.foreground_probability = foreground_probability
        self.sparse_points = sparse_points
        self.negative_clicks = negative_clicks or {}

    @classmethod
    def from_config(
        cls,
        cfg: CfgNode,
        sparse_points: dict[str, SlicePoints],
        negative_clicks: dict[str, SlicePoints] | None = None,
    ) -> dict:
        return {
            "crop": CropReader.from_config(cfg),
            "augmentation": StrongAugmentation(cfg),
            "foreground_probability": cfg.INPUT.FOREGROUND_PROBABILITY,
            "sparse_points": sparse_points,
            "negative_clicks": negative_clicks,
            "unprompted_probability": cfg.DOMAIN_ADAPT.UNPROMPTED_PROBABILITY,
        }

    def __call__(self, dataset_dict: DatasetDict, rng: np.random.Generator) -> TargetSample:
        crop = self.crop.for_slice(dataset_dict)
        points, negatives = (
            clicks.get(dataset_dict["dataset_name"], {}).get(dataset_dict["slice"], NO_POINTS)
            for clicks in (self.sparse_points, self.negative_clicks)
        )
        around = None
        if rng.random() < self.foreground_probability and len(points):
            around = points[rng.integers(len(points))]
        box = crop.box(dataset_dict, rng, around)
        weak = crop.read_image(dataset_dict, box)
        geometric, photometric = self.augmentation(rng, *weak.shape)
        strong = photometric.apply_image(geometric.apply_image(weak))
        sparse = crop.points(points, box)
        noise = rng.integers(2**31, size=strong.shape, dtype=np.int32)
        prompt_ratio = rng.random()
        if self.unprompted_probability and rng.random() < self.unprompted_probability:
            prompt_ratio = 0.0
        return {
            "domain": "target",
            "image_id": dataset_dict["image_id"],
            "box": box,
            "weak_image": torch.from_numpy(np.ascontiguousarray(weak, np.float32))[None],
            "image": torch.from_numpy(np.ascontiguousarray(strong, np.float32))[None],
            "sparse_points": torch.from_numpy(sparse),
            "negative_clicks": torch.from_numpy(crop.points(negatives, box)),
            "strong_sparse_points": torch.from_numpy(geometric.apply_coords(sparse).astype(np.float32)),
            "inverse_pixel_map": torch.from_numpy(inverse_pixel_map(geometric, *weak.shape)),
            "forward_pixel_map": torch.from_numpy(forward_pixel_map(geometric, *weak.shape)),
            "noise": torch.from_numpy(noise),
            "prompt_ratio": torch.tensor(prompt_ratio, dtype=torch.float32),
        }


class SliceMapper:
    """A whole slice, with its true instances and one prompt set for each ratio of their centers, if it is labeled.

    Raises VolumeError for a slice that cannot be read: without it the results would be those of another test set.
    """

    @configurable
    def __init__(
        self, *, scale: float, prompt_ratios: tuple[float, ...], prompt_seed: int, pixel_size: float = 0.0
    ) -> None:
        self.scale = NetworkScale(scale, pixel_size)
        self.prompt_ratios = prompt_ratios
        self.prompt_seed = prompt_seed

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        return {
            "scale": cfg.INPUT.SCALE,
            "pixel_size": cfg.INPUT.PIXEL_SIZE,
            "prompt_ratios": tuple(cfg.TEST.PROMPT_RATIOS),
            "prompt_seed": cfg.TEST.PROMPT_SEED,
        }

    def __call__(self, dataset_dict: DatasetDict) -> SliceSample:
        try:
            image = read_image(dataset_dict, scale=self.scale.of_slice(dataset_dict))
            labels = read_labels(dataset_dict)
        except VolumeError as error:
            raise VolumeError(
                f"{dataset_dict['image_id']} cannot be evaluated, and is not skipped (DATALOADER.MAX_CORRUPT_SLICES is "
                f"for training): the results would be of another test set. {error} `prompt-das check-data` lists "
                "all that is wrong with a data set."
            ) from error
        _, points = instance_centers(connected_components(labels > 0))
        return {
            "image_id": dataset_dict["image_id"],
            "image": torch.from_numpy(image)[None],
            "height": dataset_dict["height"],
            "width": dataset_dict["width"],
            "instances": labels,
            "prompts": {
                f"{ratio:.0%}": sample_sparse_points(
                    points, ratio, np.random.default_rng([self.prompt_seed, dataset_dict["slice"]])
                )
                for ratio in self.prompt_ratios
            },
        }
