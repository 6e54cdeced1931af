"""Click and see: a window is encoded once, and a click decodes only the windows that it lies in.

Shapes: H, W height and width of the slice, N points, w side of a window in pixels of the network.
A point is (x, y) in pixels of the slice, the center of the first pixel is (0.5, 0.5); its label is 1 (positive: "this
is one") or 0 (negative: "this is none"). A box is (y0, x0, y1, x1) in pixels of the slice, half open.

How it stays exact: the prediction of a window depends on the pixels of the window and on the points inside it, and is
always computed alike, in a batch of one size and with its points in one order. So it can be kept, forgotten and
computed again without any difference, and a result does not depend on the clicks before it, nor on the cache.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from prompt_das.config.validation import CHOICES
from prompt_das.data.physical_scale import default_scale
from prompt_das.inference.interactive.arguments import check_clicks, check_region
from prompt_das.inference.interactive.cache import TensorCache
from prompt_das.inference.interactive.current_slice import CurrentSlice
from prompt_das.inference.interactive.image import Range, SliceImage, check_image
from prompt_das.inference.interactive.newest_call import NewestCall
from prompt_das.inference.interactive.resize import Box
from prompt_das.inference.interactive.segmentation import Centers, Segmentation
from prompt_das.inference.interactive.slice_maps import SliceMaps
from prompt_das.inference.interactive.windows import WindowPredictor
from prompt_das.modeling.load import load_model
from prompt_das.modeling.meta_arch import PromptDAS
from prompt_das.ops.slice_peaks import find_slice_peaks

import numpy as np
import torch
from detectron2.config import CfgNode
from numpy.typing import ArrayLike
from torch import Tensor

CACHE_BYTES = 2 << 30  # a slice of 4096 x 4096 pixels takes 1 GiB at the paper's size and stride 256
MAX_CENTERS = 4096  # of a slice, which may hold far more than the crops that DOMAIN_ADAPT.POINTS.TOP_K is for

Progress = Callable[[int, int], None]


class Predictor:
    """Interactive segmentation of slices of any size, for one viewer.

    Nothing is computed before it is needed. A window is encoded with its first prediction; at the paper's size
    that takes as long as 40 decodings. For a viewer that shows a part of a large slice, pass that part as ``region``.

    Threads: every method may be called from any thread at any time, and **the newest call wins**: a call that is still
    running ends after the few windows in work and raises :class:`Superseded`. What it has computed is kept. A call
    whose windows are encoded does not wait for the encoding of another call.

    ``TEST.WINDOW.ROTATIONS 4`` works, at four times the time and memory. Set it to 1 (in ``opts``) to click, unless
    the answers must be those of an evaluation with rotations.

    Attributes:
        cfg: the config of the network.
        cache: embeddings and predictions of windows of all slices; ``cache.nbytes`` is never above ``cache_bytes``.
            Beside it a slice takes about 25 bytes per pixel (15 more with centers, 10 more with TEST.CLICK_REACH
            object; more where windows overlap by more than a third).
        center_threshold: lowest score of a predicted center, by default DOMAIN_ADAPT.POINTS.THRESHOLD. A higher one
            only leaves out some of them: to try thresholds, filter by score.
        scale: network pixels per image pixel, of images that come without their own; None where it is not known.
        instances: "components" of the mask, or "centers": those split at predicted centers and positive clicks. Every
            complete result then takes the time of ``centers=True``; results on the way have components.
    """

    def __init__(
        self,
        weights: str | Path | tuple[CfgNode, PromptDAS],
        *,
        pixel_size: float | None = None,
        diameter: float | None = None,
        device: str | torch.device | None = None,
        config_file: str | Path | None = None,
        opts: Sequence[str] = (),
        plugins: Sequence[str | Path] = (),
        cache_bytes: int = CACHE_BYTES,
        instances: str | None = None,
    ) -> None:
        """
        Args:
            weights: a training checkpoint, a safetensors file or the name of a model, see
                :func:`prompt_das.modeling.load.load_model`; or a config and its network, which are used as they are,
                see :meth:`from_model`.
            pixel_size: side of a pixel of the images that will be given, in nm; for weights with INPUT.PIXEL_SIZE.
            diameter: instead, the typical diameter of an object in pixels of these images.
            device: "cpu", "cuda", "cuda:1"; by default the config's, which is a GPU where there is one.
            config_file: by default the one inside or beside the weights.
            opts: overrides of the config: ``["TEST.WINDOW.STRIDE", "128"]``.
            plugins: code that registers parts of the network, see :mod:`prompt_das.config.plugins`.
            cache_bytes: the most that embeddings and predictions of windows may take, on ``device``.
            instances: "components", or "centers" to split those that touch, see :attr:`instances`; by default
                TEST.INSTANCES.

        Raises:
            FileNotFoundError: no weights, or no config for them.
            ValueError: damaged weights, weights of another network, a device that is not there, a size that can
                hardly be meant, or instances that are not known.
        """
        known = CHOICES["TEST.INSTANCES"]
        if instances not in (None, *known):
            raise ValueError(f"instances is {instances!r}; use {' or '.join(map(repr, known))}")
        if isinstance(weights, tuple):
            self.cfg, self._model = weights
        else:
            self.cfg, self._model = load_model(weights, config_file, opts, plugins, device=device)
        self._model.eval()
        self.scale = default_scale(self.cfg, pixel_size, diameter)
        self.cache = TensorCache(cache_bytes)
        self.center_threshold = float(self.cfg.DOMAIN_ADAPT.POINTS.THRESHOLD)
        self.instances = str(self.cfg.TEST.INSTANCES if instances is None else instances)
        self._kernel = int(self.cfg.DOMAIN_ADAPT.POINTS.KERNEL)
        self._windows = WindowPredictor(self._model, self.cache)
        self._calls = NewestCall()
        self._current = CurrentSlice(self._model, self._calls)

    @classmethod
    def from_model(cls, cfg: CfgNode, model: PromptDAS, *, cache_bytes: int = CACHE_BYTES) -> Predictor:
        """Build a predictor of a network that is loaded already. Its weights must not change from now on."""
        return cls((cfg, model), cache_bytes=cache_bytes)

    @property
    def device(self) -> torch.device:
        """Where the network works."""
        return self._model.device

    @property
    def uses_negative_clicks(self) -> bool:
        """Whether points of label 0 count; a network of the paper's prompt encoder ignores them."""
        return bool(self._model.prompt_encoder.uses_labels)

    def set_image(self, image: ArrayLike, intensity_range: Range | None = None, *, scale: float | None = None) -> None:
        """Choose the slice that points are on from now on. Nothing is encoded yet.

        An equal slice of before is still in the cache, as far as that reaches. Where several threads call,
        pass ``image`` to :meth:`predict` instead: an image and its points cannot be separated then.

        Args:
            image: (H, W) integers or floats, or (H, W, 3 or 4) whose three colors are equal.
            intensity_range: (lo, hi), the gray values that become black and white. By default 8-bit values are taken
                as they are, and of other types the 0.1 and 99.9 percentile of this slice. The slices of a volume
                should share the range that its network was, or will be, trained with.
            scale: network pixels per image pixel, by default :attr:`scale`.

        Raises:
            ValueError: not a slice, an empty one, colors, NaN, a range that is not one, or no scale.
            Superseded: another thread has set a newer image meanwhile.
        """
        checked = self._check_image(image, intensity_range, scale)
        self._current.set(checked, self._calls.start())

    def cancel(self) -> None:
        """End the call that is running without waiting for it: it raises :class:`Superseded`."""
        self._calls.start()

    def predict(
        self,
        points: ArrayLike,
        labels: ArrayLike | None = None,
        *,
        image: ArrayLike | None = None,
        intensity_range: Range | None = None,
        scale: float | None = None,
        region: Box | None = None,
        centers: bool = False,
        progress: Progress | None = None,
    ) -> Segmentation:
        """Segment the slice given these clicks: all that hold now, not only the new ones.

        Decodes the windows in which a point was added, removed or moved since the last call, and those of the region
        that were never predicted.

        Args:
            points: (N, 2), N may be 0.
            labels: (N,), 1 for a point on something to segment, 0 for one on something to leave out; by default all 1.
                A network of the paper's prompt encoder ignores negative points.
            image, intensity_range, scale: if given, first :meth:`set_image`.
            region: a box that is predicted, such as what a viewer shows; it may reach beyond the slice. What was
                predicted outside is kept, and follows the points. None: the whole slice.
            centers: predict centers as well; at the paper's size half as much work as to encode.
            progress: called with (windows done, windows in all) after each batch of them, in this thread.

        Raises:
            Superseded: a newer call came.
            ValueError: points or labels of a wrong shape, NaN, a point outside the slice; a bad image or region.
            RuntimeError: there is no image yet.
        """
        results = self.stream(
            points,
            labels,
            image=image,
            intensity_range=intensity_range,
            scale=scale,
            region=region,
            centers=centers,
            progress=progress,
            interval=math.inf,
        )
        return next(results)

    def stream(
        self,
        points: ArrayLike,
        labels: ArrayLike | None = None,
        *,
        image: ArrayLike | None = None,
        intensity_range: Range | None = None,
        scale: float | None = None,
        region: Box | None = None,
        centers: bool = False,
        progress: Progress | None = None,
        interval: float = 0.5,
    ) -> Iterator[Segmentation]:
        """Predict as :meth:`predict` does, and yield results on the way, the complete one last.

        First come the windows that are encoded already, and a result with all of them; then the others, clicked ones
        and then from the middle of the region outwards, and a result every ``interval`` seconds (none on the way if it
        is infinite); then the centers. Where windows overlap, a result on the way may blend old and new predictions.

        The call checks its arguments and counts as the newest at once; the work is done where, and while, its results
        are taken. A stream may be left at any time.
        """
        expected = self._current.maps
        own_image = None if image is None else self._check_image(image, intensity_range, scale)
        shown = own_image or expected
        if shown is None:
            raise RuntimeError("there is no image yet: call set_image, or pass image")
        clicks = check_clicks(points, labels, shown.size)
        checked_region = (0, 0, *shown.size) if region is None else check_region(region)
        call = _Call(self._calls.start(), clicks, checked_region, centers)
        return self._results(call, own_image, expected, progress, interval)

    def _results(
        self,
        call: _Call,
        image: SliceImage | None,
        expected: SliceMaps | None,
        progress: Progress | None,
        interval: float,
    ) -> Iterator[Segmentation]:
        maps = self._current.begin(image, expected, call.ticket)
        with self._current.locked(call.ticket):
            batches = self._windows.plan(maps, call.clicks, call.region, call.centers or self._splits)
        total, done, pace = sum(map(len, batches)), 0, 0
        last_result = time.monotonic()
        for batch in batches:
            gets_slower, pace = batch[0].pace > pace, batch[0].pace
            if done and interval < math.inf and (gets_slower or time.monotonic() - last_result >= interval):
                yield self._result(maps, call, done, total)
                last_result = time.monotonic()
            predictions = self._windows.predict(maps, batch, lambda: self._calls.check(call.ticket))
            with self._current.locked(call.ticket):
                for step, prediction in zip(batch, predictions, strict=True):
                    for kind in step.kinds:
                        maps.blend(kind).set_window(step.window, step.click_key, prediction)
            done += len(batch)
            if progress is not None:
                progress(done, total)
        yield self._result(maps, call, total, total)

    def _result(self, maps: SliceMaps, call: _Call, done: int, total: int) -> Segmentation:
        complete = done == total
        with self._current.locked(call.ticket):
            changed = maps.update(call.clicks)
            probability = maps.probability
            density = maps.density(self._kernel) if call.centers and complete else None
            centers_map = maps.centers_map() if self._splits and complete else None
        # Outside the lock: in a large slice this may take seconds.
        centers = None if density is None else find_centers(maps, *density, self.center_threshold, self._kernel)
        return Segmentation(
            probability=probability,
            points=call.clicks[:, :2],
            labels=call.clicks[:, 2].astype(np.int8),
            changed=changed,
            done=done,
            total=total,
            centers=centers,
            min_size=self.cfg.TEST.MIN_INSTANCE_SIZE,
            centers_map=centers_map,
            peaks=(self.center_threshold, self._kernel),
        )

    @property
    def _splits(self) -> bool:
        return self.instances == "centers"

    def _check_image(self, image: ArrayLike, intensity_range: Range | None, scale: float | None) -> SliceImage:
        scale = self.scale if scale is None else scale
        return check_image(image, intensity_range, scale, pixel_size=self.cfg.INPUT.PIXEL_SIZE)


class _Call(NamedTuple):
    ticket: int
    clicks: np.ndarray  # (N, 3)
    region: Box
    centers: bool


def find_centers(maps: SliceMaps, density: Tensor, origin: Tensor, threshold: float, kernel: int) -> Centers:
    """Find the centers of a part of a slice: its density (h, w'), and the (x, y) where it begins, of the network."""
    points, scores = find_slice_peaks(density.cpu().numpy(), threshold, kernel, MAX_CENTERS)
    return Centers(maps.to_slice(torch.from_numpy(points) + origin.cpu()).numpy(), scores)
