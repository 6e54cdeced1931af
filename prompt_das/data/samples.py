"""The samples that flow from the mappers to the network. Each is one crop or one slice; settings are no part of them.

Shapes: H, W pixels of a crop; N points, each (x, y) in pixels of the image that it belongs to, or (x, y, label) where
they are clicks.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

from prompt_das.volumes.volume import Box

import numpy as np
from torch import Tensor

DatasetDict = dict[str, Any]  # one slice of a registered dataset, see prompt_das.data.datasets


class SourceSample(TypedDict):
    """A labeled crop of the source domain, strongly augmented."""

    domain: Literal["source"]
    image_id: str
    box: Box  # of the crop: (y0, x0, y1, x1) in pixels of the slice
    image: Tensor  # (1, H, W) float32, gray values 0-255
    mask: Tensor  # (H, W) uint8, 1 = foreground
    points: Tensor  # (N, 2) float32: the centers of all instances
    prompts: Tensor  # (N', 3) float32: clicks
    skipped: NotRequired[dict[str, str]]  # slices it replaces since they cannot be read: image_id -> why


class TargetSample(TypedDict):
    """An unlabeled crop of the target domain: a weak view for the teacher, a strong one for the student.

    All random numbers of its pseudo-labels come with it, so that they depend on nothing else of the batch.
    """

    domain: Literal["target"]
    image_id: str
    box: Box
    weak_image: Tensor  # (1, H, W) float32, as stored
    image: Tensor  # (1, H', W') float32, strongly augmented
    sparse_points: Tensor  # (N, 2) float32, in the weak view
    negative_clicks: Tensor  # (N, 2) float32, in the weak view: on what is no organelle
    strong_sparse_points: Tensor  # (N, 2) float32: the same points in the strong view
    inverse_pixel_map: Tensor  # (H', W') integers: for each pixel of the strong view the index of its weak pixel
    forward_pixel_map: Tensor  # (H, W, 2) float32: for each pixel of the weak view its point in the strong view
    noise: Tensor  # (H', W') random non-negative int32, to choose points with
    prompt_ratio: Tensor  # () float32 in [0, 1): random, decides how many points become prompts
    skipped: NotRequired[dict[str, str]]  # as in SourceSample


class ContrastivePoints(TypedDict, total=False):
    """Where contrastive tokens are placed, in the strong view, with which of them are no padding."""

    positives: Tensor  # (N, 2)
    positives_valid: Tensor  # (N,) bool
    queries: Tensor  # (Q, 2)
    queries_valid: Tensor  # (Q,) bool
    negatives: Tensor  # (M, 2)
    negatives_valid: Tensor  # (M,) bool


class LabeledSample(TypedDict):
    """A target crop with the teacher's pseudo-labels, all in the strong view and on the teacher's device."""

    domain: Literal["target"]
    image_id: str
    box: Box
    image: Tensor  # (1, H, W) float32
    mask: Tensor  # (H, W) uint8, 1 = foreground
    pixel_valid: Tensor  # (H, W) bool: where the mask counts
    image_weight: Tensor  # (): how much the mask counts, 0 to 1
    density_ignore: Tensor  # (H, W) bool: where the density counts only near a point
    points: Tensor  # (N, 2): sparse and pseudo points
    points_valid: Tensor  # (N,) bool
    prompts: Tensor  # (N, 3): the same points as positive clicks
    prompts_valid: Tensor  # (N,) bool: a random subset of them
    contrastive: ContrastivePoints  # {} where the contrastive loss is not used


class SliceSample(TypedDict):
    """A slice to be evaluated, with its true instances and one prompt set for each ratio of their centers."""

    image_id: str
    image: Tensor  # (1, H', W'), gray values 0-255, at the scale of the network
    height: int  # of the slice as stored
    width: int
    instances: np.ndarray  # (height, width) instance ids, 0 = background
    prompts: dict[str, np.ndarray]  # for "0%", "15%", ... points (N, 2) in pixels of the slice as stored


TrainingSample = SourceSample | LabeledSample
