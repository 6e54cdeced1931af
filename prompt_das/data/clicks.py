"""Clicks that change what is to be segmented, so that a network learns to follow them.

In the paper the target mask does not depend on the clicks, so a network may ignore them. Here a click on an image
region that is no organelle makes it foreground, and a negative click on an organelle takes it out of the target (the
additive and subtractive targets of VISTA3D, He et al. 2024). Some crops have no click at all, so that the automatic
mode keeps its quality (DeepEdit, Diaz-Pinto et al. 2022).

Shapes: H, W pixels of a crop; N points (x, y), N' clicks (x, y, label).
"""

from __future__ import annotations

from dataclasses import dataclass

from prompt_das.ops.connected_components import connected_components
from prompt_das.ops.points import NEGATIVE, POSITIVE, as_clicks, instance_centers, random_pixels

import cv2
import numpy as np
import scipy.ndimage
from detectron2.config import CfgNode

# In standard deviations of the Gaussian at a center point, which grows with the objects: the regions' areas in sigma
# squared, the blur of the image that they are found in, and the side of the windows whose minima are their seeds.
REGION_AREA = (7.0, 87.0)
BLUR = (0.4, 1.0)
SEED_WINDOW = (2.1, 4.6)

NO_CLICKS = np.zeros((0, 3), np.float32)


@dataclass(frozen=True)
class ClickSimulator:
    """Simulated clicks on training crops.

    Attributes:
        sigma: standard deviation of the Gaussian at a center point, in pixels of the crop.
        free: probability of a crop without clicks, and with the plain target.
        added: probability of a crop with regions that are clicked and become foreground, 1 ... ``max_added`` of them.
        removed: probability of a crop with instances that get a negative click and leave the target, 1 ... all of them.
        background: probability of a crop with negative clicks on background, 1 ... ``max_background`` of them, which
            change nothing.
        anywhere: probability of a click anywhere inside the instance instead of at its center.
    """

    sigma: float
    free: float
    added: float
    max_added: int
    removed: float
    background: float
    max_background: int
    anywhere: float

    @classmethod
    def from_config(cls, cfg: CfgNode) -> ClickSimulator | None:
        """None where ``INPUT.CLICKS`` is not enabled: the target does not depend on the prompts then."""
        node = cfg.INPUT.CLICKS
        if not node.ENABLED:
            return None
        return cls(
            sigma=cfg.MODEL.CENTER_HEAD.SIGMA,
            free=node.FREE_PROBABILITY,
            added=node.ADDED_PROBABILITY,
            max_added=node.MAX_ADDED,
            removed=node.REMOVED_PROBABILITY,
            background=node.BACKGROUND_PROBABILITY,
            max_background=node.MAX_BACKGROUND,
            anywhere=node.ANYWHERE,
        )

    def __call__(
        self,
        image: np.ndarray,
        instances: np.ndarray,
        rng: np.random.Generator,
        objects: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Click on a labeled crop.

        Args:
            image: (H, W) gray values 0 to 255.
            instances: (H, W) ids of true organelles, 0 where there is none.
            objects: (H, W) ids of other objects in the image, if they are known: these are clicked then instead of
                image regions, whose borders are only guessed.

        Returns:
            The target mask (H, W) uint8 that follows the clicks; its centers (N, 2); the clicks (N', 3).
        """
        ids, centers = instance_centers(instances)
        if rng.random() < self.free:
            return (instances > 0).astype(np.uint8), centers, NO_CLICKS
        order = rng.permutation(len(ids))
        num_removed = int(rng.integers(1, len(ids) + 1)) if len(ids) and rng.random() < self.removed else 0
        removed, kept = order[:num_removed], order[num_removed:]
        clicked = kept[: rng.integers(len(kept) + 1)]
        target = np.where(np.isin(instances, ids[removed]), 0, instances)
        points = [self._click(instances, ids, centers, chosen, rng) for chosen in (clicked, removed)]
        labels = [POSITIVE] * len(clicked) + [NEGATIVE] * len(removed)
        if rng.random() < self.added:
            if objects is not None:
                regions, region_points = self.choose_objects(objects, rng)
            else:
                regions, region_points = self.choose_regions(image, instances, rng)
            target = np.where(regions > 0, instances.max(initial=0) + regions.astype(target.dtype), target)
            points.append(region_points)
            labels += [POSITIVE] * len(region_points)
        if rng.random() < self.background:
            background = random_pixels(target == 0, int(rng.integers(1, self.max_background + 1)), rng)
            # An instance that was removed is background here, too; to click it once more changes nothing either.
            points.append(background)
            labels += [NEGATIVE] * len(background)
        _, centers = instance_centers(target)
        return (target > 0).astype(np.uint8), centers, as_clicks(np.concatenate(points), np.array(labels))

    def choose_objects(self, objects: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Up to ``max_added`` of the objects (H, W); returns as :meth:`choose_regions`."""
        ids, area = np.unique(objects, return_counts=True)
        usable = ids[(ids > 0) & (area >= REGION_AREA[0] * self.sigma**2)]
        chosen = rng.permutation(usable)[: int(rng.integers(1, self.max_added + 1))]
        number = np.zeros(int(ids.max(initial=0)) + 1, np.uint8)
        number[chosen] = np.arange(1, len(chosen) + 1)
        regions = number[objects]
        found, centers = instance_centers(regions)
        return regions, self._click(regions, found, centers, np.arange(len(found)), rng)

    def choose_regions(
        self, image: np.ndarray, avoid: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Up to ``max_added`` regions of an image that do not touch ``avoid`` (H, W).

        Returns:
            (H, W) uint8 with 1 ... n in the regions; the points (n, 2) where they are clicked.
        """
        count = int(rng.integers(1, self.max_added + 1))
        found = propose_regions(image, self.sigma, rng)
        touching = np.unique(found[cv2.dilate((avoid > 0).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0])
        area = np.bincount(found.ravel())
        low, high = (limit * self.sigma**2 for limit in REGION_AREA)
        usable = (area >= low) & (area <= high)
        usable[0] = False
        usable[touching] = False
        ids = rng.permutation(np.flatnonzero(usable))[:count]
        chosen = np.zeros(len(area), np.uint8)
        chosen[ids] = np.arange(1, len(ids) + 1)
        regions = chosen[found]
        for i in range(1, len(ids) + 1):  # scipy's watershed leaves a few pixels of a region elsewhere
            parts = connected_components(regions == i)
            regions[(parts > 0) & (parts != 1 + np.bincount(parts.ravel())[1:].argmax())] = 0
        ids, centers = instance_centers(regions)
        return regions, self._click(regions, ids, centers, np.arange(len(ids)), rng)

    def _click(
        self, instances: np.ndarray, ids: np.ndarray, centers: np.ndarray, chosen: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """A point in each chosen instance, at its center or anywhere in it -> (n, 2)."""
        points = centers[chosen].copy()
        for i in np.flatnonzero(rng.random(len(chosen)) < self.anywhere):  # a few instances of a crop
            points[i] = random_pixels(instances == ids[chosen[i]], 1, rng)[0]
        return points


def propose_regions(image: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Watershed of an image (H, W) of gray values 0 to 255 -> (H, W) int32, each region with its id; no pixel is 0.

    The image is smoothed by a random amount and flooded from the minima of its gradient, so that regions end at edges:
    vesicles, folds, pieces of cytoplasm and of dendrites.
    """
    smooth = cv2.GaussianBlur(image.astype(np.float32), (0, 0), rng.uniform(*BLUR) * sigma)
    gradient = np.hypot(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1))
    side = 2 * round(rng.uniform(*SEED_WINDOW) * sigma / 2) + 1
    seeds = gradient == cv2.erode(gradient, np.ones((side, side), np.uint8))
    markers, _ = scipy.ndimage.label(seeds, np.ones((3, 3)))
    levels = (gradient * (255 / max(float(gradient.max()), 1e-6))).astype(np.uint8)
    return scipy.ndimage.watershed_ift(levels, markers.astype(np.int32), np.ones((3, 3)))
