"""Click and see: a window is encoded once, and a click decodes only the windows that it lies in.

Shapes: H, W height and width of the slice, N points, w side of a window in pixels of the network.
A point is (x, y) in pixels of the slice, the centre of the first pixel is (0.5, 0.5). A box is (y0, x0, y1, x1) in
pixels of the slice, half open.

How it stays exact: what the network says of a window depends on the pixels of the window and on the points inside it,
and is always computed for one window alone, with its points in one order. So it can be kept, forgotten and computed
again without any difference, and an answer does not depend on the clicks before it, nor on the cache.
"""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial, reduce
from pathlib import Path
from typing import Any, NamedTuple

from prompt_das.inference.interactive.cache import TensorCache
from prompt_das.inference.interactive.resize import Box
from prompt_das.inference.interactive.slice_maps import CENTERS, MASK, SliceMaps
from prompt_das.modeling.load import load_model
from prompt_das.modeling.meta_arch import PromptDAS
from prompt_das.ops.connected_components import semantic_to_instances
from prompt_das.ops.points import find_peaks
from prompt_das.ops.sliding_window import check_rotations, predict_view
from prompt_das.volumes.intensity import check_slice, preprocess, slice_intensity_range

import numpy as np
import torch
from detectron2.config import CfgNode
from numpy.typing import ArrayLike
from torch import Tensor

CACHE_BYTES = 2 << 30  # a slice of 4096 x 4096 pixels takes 1 GiB at the paper's size and stride 256
MAX_CENTERS = 4096  # of a slice, which may hold far more than the crops that DOMAIN_ADAPT.POINTS.TOP_K is for
THRESHOLD = 0.5  # of the probability

Progress = Callable[[int, int], None]
Range = tuple[float, float]


class Superseded(Exception):
    """A newer call, or :meth:`Predictor.cancel`, has made this one pointless. Its caller has nothing to do."""


class Centers(NamedTuple):
    """Predicted centres of instances, the surest first."""

    points: np.ndarray  # (N, 2) float32, (x, y) in pixels of the slice
    scores: np.ndarray  # (N,) float32, about 1 for a sure one


@dataclass(frozen=True, eq=False)
class Segmentation:
    """What is known of a slice. The arrays are read-only and stay as they are, whatever is asked next.

    Attributes:
        probability: (H, W) float32 of the foreground; NaN where nobody has asked yet, see ``region`` of
            :meth:`Predictor.predict`.
        points: (N, 2) float32, those of the call.
        changed: a box that holds every pixel that is not as it was in the answer before (of a new image: every pixel
            that is known); None if there is none.
        done, total: windows of this call that are in the answer, and all of them. A window counts twice if centres
            are asked for.
        centers: predicted centres in the part that is known; None unless they were asked for and the answer is whole.
        min_size: components of at most so many pixels are no instances.
    """

    probability: np.ndarray
    points: np.ndarray
    changed: Box | None
    done: int
    total: int
    centers: Centers | None
    min_size: int

    @cached_property
    def mask(self) -> np.ndarray:
        """(H, W) bool: foreground."""
        return self.probability > THRESHOLD

    @cached_property
    def instances(self) -> np.ndarray:
        """(H, W) int32: the 8-connected components of the mask, 1 ... n in raster order, 0 elsewhere."""
        return semantic_to_instances(self.mask, self.min_size)


class Predictor:
    """Interactive segmentation of slices of any size, for one viewer.

    Nothing is computed before somebody asks for it. A window is encoded with its first prediction; at the paper's size
    that takes as long as 40 decodings. For a viewer that shows a part of a large slice, pass that part as ``region``.

    Threads: every method may be called from any thread at any time, and **the newest call wins**: a call that is still
    running ends after the window in work and raises :class:`Superseded`. What it has computed is kept. A call
    that finds its windows encoded does not wait for another one's encoding.

    ``TEST.WINDOW.ROTATIONS 4`` works, at four times the time and memory. Set it to 1 (in ``opts``) to click, unless
    the answers must be those of an evaluation with rotations.

    Attributes:
        cfg: the config of the network.
        cache: embeddings and predictions of windows of all slices; ``cache.nbytes`` is never above ``cache_bytes``.
            Beside it a slice takes about 25 bytes per pixel (40 with centres; more where windows overlap by more than
            a third).
        center_threshold: lowest score of a predicted centre, by default DOMAIN_ADAPT.POINTS.THRESHOLD. A higher one
            only leaves out some of them: to try thresholds, filter by score.
    """

    def __init__(
        self,
        weights: str | Path,
        *,
        device: str | torch.device | None = None,
        config_file: str | Path | None = None,
        opts: Sequence[str] = (),
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        """
        Args:
            weights: a training checkpoint or a safetensors file, see :func:`prompt_das.modeling.load.load_model`.
            device: "cpu", "cuda", "cuda:1"; by default the config's, which is a GPU where there is one.
            config_file: by default the one inside or beside the weights.
            opts: overrides of the config: ``["TEST.WINDOW.STRIDE", "128"]``.
            cache_bytes: the most that embeddings and predictions of windows may take, on ``device``.

        Raises:
            FileNotFoundError: no weights, or no config for them.
            ValueError: damaged weights, weights of another network, or a device that is not there.
        """
        if device is not None:
            if torch.device(device).type != "cpu" and not torch.cuda.is_available():
                raise ValueError(f"device is {str(device)!r}, but torch finds no GPU here; use 'cpu' or leave it out")
            opts = [*opts, "MODEL.DEVICE", str(device)]
        self._set_up(*load_model(weights, config_file, opts), cache_bytes)

    @classmethod
    def from_model(cls, cfg: CfgNode, model: PromptDAS, *, cache_bytes: int = CACHE_BYTES) -> Predictor:
        """For a network that is loaded already, and its config. Its weights must not change from now on."""
        predictor = cls.__new__(cls)
        predictor._set_up(cfg, model, cache_bytes)
        return predictor

    def _set_up(self, cfg: CfgNode, model: PromptDAS, cache_bytes: int) -> None:
        self._rotations = model.window["rotations"]
        check_rotations(self._rotations)
        self.cfg = cfg
        self.cache = TensorCache(cache_bytes)
        self.center_threshold = float(cfg.DOMAIN_ADAPT.POINTS.THRESHOLD)
        self._kernel = int(cfg.DOMAIN_ADAPT.POINTS.KERNEL)
        self._model = model.eval()
        self._slice: SliceMaps | None = None
        self._lock = threading.Lock()  # of the slice and its maps; never held while the network works
        self._encoding = threading.Lock()  # one window at a time
        self._ticket_lock = threading.Lock()
        self._newest = 0  # the ticket of the newest call
        self._newest_image = 0  # that of the call that set the slice

    @property
    def device(self) -> torch.device:
        """Where the network works."""
        return self._model.device

    def set_image(self, image: ArrayLike, intensity_range: Range | None = None) -> None:
        """The slice that points are on from now on. Nothing is encoded yet.

        For a slice that was here before, an equal one, the cache is asked for what it still has. Where several threads
        call, pass ``image`` to :meth:`predict` instead: an image and its points cannot be separated then.

        Args:
            image: (H, W) integers or floats, or (H, W, 3 or 4) whose three colours are equal.
            intensity_range: (lo, hi), the grey values that become black and white. By default 8-bit values are taken
                as they are, and of other types the 0.1 and 99.9 percentile of this slice. The slices of a volume
                should share the range that its network was, or will be, trained with.

        Raises:
            ValueError: not a slice, an empty one, colours, NaN, or a range that is not one.
            Superseded: another thread has set a newer image meanwhile.
        """
        image = check_slice(np.asarray(image))
        ticket = self._take_ticket()
        with self._lock:
            self._use(image, intensity_range, ticket)

    def cancel(self) -> None:
        """Make the call that is running raise :class:`Superseded`; does not wait for it."""
        self._take_ticket()

    def predict(
        self,
        points: ArrayLike,
        *,
        image: ArrayLike | None = None,
        intensity_range: Range | None = None,
        region: Box | None = None,
        centers: bool = False,
        progress: Progress | None = None,
    ) -> Segmentation:
        """The answer to these points: to all of them, not only the new ones.

        Decodes the windows in which a point was added, removed or moved since the last call, and those of the region
        that were never predicted.

        Args:
            points: (N, 2), N may be 0.
            image, intensity_range: if given, first :meth:`set_image`.
            region: a box that must be known in the answer, such as what a viewer shows; it may reach beyond the slice.
                What is known outside stays known, and follows the points. None: the whole slice.
            centers: predict centres as well; at the paper's size half as much work as to encode.
            progress: called with (windows done, windows in all) after each window, in this thread.

        Raises:
            Superseded: a newer call came.
            ValueError: points of a wrong shape, NaN, a point outside the slice; a bad image or region.
            RuntimeError: there is no image yet.
        """
        answers = self.stream(
            points,
            image=image,
            intensity_range=intensity_range,
            region=region,
            centers=centers,
            progress=progress,
            interval=math.inf,
        )
        return next(answers)

    def stream(
        self,
        points: ArrayLike,
        *,
        image: ArrayLike | None = None,
        intensity_range: Range | None = None,
        region: Box | None = None,
        centers: bool = False,
        progress: Progress | None = None,
        interval: float = 0.5,
    ) -> Iterator[Segmentation]:
        """As :meth:`predict`, but answers come while it works, and the whole one last.

        First come the windows that are encoded already, and an answer with all of them; then the others, from the
        middle of the region outwards, and an answer every ``interval`` seconds (none on the way if it is infinite);
        then the centres. Where windows overlap, an answer on the way may blend old and new predictions.

        The call checks its arguments and counts as the newest at once; the work is done where, and while, its answers
        are taken. A stream may be left at any time.
        """
        current = self._slice
        new = None if image is None else check_slice(np.asarray(image))
        if new is not None:
            height, width = new.shape
        elif current is not None:
            height, width = current.size
        else:
            raise RuntimeError("there is no image yet: call set_image, or pass image")
        checked_points = _check_points(points, height, width)
        checked_region = (0, 0, height, width) if region is None else _check_region(region)
        call = _Call(self._take_ticket(), checked_points, checked_region, centers)
        return self._answers(call, current, new, intensity_range, progress, interval)

    def _answers(
        self,
        call: _Call,
        current: SliceMaps | None,
        new: np.ndarray | None,
        intensity_range: Range | None,
        progress: Progress | None,
        interval: float,
    ) -> Iterator[Segmentation]:
        with self._lock:
            self._check(call)
            if new is not None:
                current = self._use(new, intensity_range, call.ticket)
            if current is None or current is not self._slice:
                raise Superseded("another image was set")
            steps = self._plan(current, call)
        answered = time.monotonic()
        for i, step in enumerate(steps):
            starts_to_be_slow = i > 0 and step.pace > steps[i - 1].pace
            if i > 0 and interval < math.inf and (starts_to_be_slow or time.monotonic() - answered >= interval):
                yield self._answer(current, call, i, len(steps))
                answered = time.monotonic()
            prediction = self._prediction(current, step, call)
            with self._lock:
                self._check(call)
                current.blend(step.kind).put(step.window, step.tag, prediction)
            if progress is not None:
                progress(i + 1, len(steps))
        yield self._answer(current, call, len(steps), len(steps))

    def _take_ticket(self) -> int:
        with self._ticket_lock:
            self._newest += 1
            return self._newest

    def _check(self, call: _Call) -> None:
        if call.ticket != self._newest:
            raise Superseded("a newer call came, or this one was cancelled")

    def _use(self, image: np.ndarray, intensity_range: Range | None, ticket: int) -> SliceMaps:
        """Make a slice the current one. The caller holds the lock."""
        if ticket < self._newest_image:
            raise Superseded("a newer image was set")
        key = _digest(image, intensity_range)
        if self._slice is None or self._slice.key != key:
            seen = preprocess(image, self.cfg.INPUT.SCALE, intensity_range or slice_intensity_range(image))
            self._slice = SliceMaps(key, (image.shape[0], image.shape[1]), seen, self._model.window, self.device)
        self._newest_image = ticket
        return self._slice

    def _plan(self, current: SliceMaps, call: _Call) -> list[_Step]:
        """The windows to predict, in the order to do it.

        They are those that the region needs and those that were predicted before, less those whose points are still
        the points of their last prediction.
        """
        wanted = current.windows_of(call.region)
        points = current.points_per_window(call.points)
        known = set(wanted)
        others = [index for index in range(len(points)) if index not in known]
        steps = []
        for kind in (MASK, CENTERS)[: 1 + call.centers]:
            tag_of = current.blend(kind).tag
            for index in [*wanted, *(i for i in others if tag_of(i) is not None)]:
                tag = points[index].tobytes()
                if tag != tag_of(index):
                    key = (current.key, index, kind, tag)
                    slow = key not in self.cache and (current.key, index, 0) not in self.cache
                    steps.append(_Step(kind, index, points[index], tag, key, 2 * (kind == CENTERS) + slow))
        return sorted(steps, key=lambda step: step.pace)

    def _prediction(self, current: SliceMaps, step: _Step, call: _Call) -> Tensor:
        """(w, w): what the network says of a window, from the cache if it has it."""
        prediction = self.cache.get(step.key)
        if prediction is None:
            prediction = self._decode(current, step, call)
            self.cache.put(step.key, prediction)
        else:
            for turns in range(self._rotations):  # in use as well: the next click here needs it
                self.cache.get((current.key, step.window, turns))
        return prediction

    @torch.no_grad()
    def _decode(self, current: SliceMaps, step: _Step, call: _Call) -> Tensor:
        def look(turns: int, windows: Tensor, points: Tensor, valid: Tensor) -> Tensor:
            embedding = self._embedding((current.key, step.window, turns), windows, call)
            size = (windows.shape[-2], windows.shape[-1])
            if step.kind == MASK:
                return (
                    self._model.decode(embedding, points[0], valid[0], size, with_density=False).logits[None].sigmoid()
                )
            return self._model.decode(embedding, points[0], valid[0], size, with_mask=False).density[None]

        window = current.window(step.window)[None]
        points = torch.from_numpy(step.points).to(self.device)[None, None]
        valid = torch.ones(points.shape[:3], dtype=torch.bool, device=self.device)
        views = (predict_view(partial(look, turns), window, points, valid, turns) for turns in range(self._rotations))
        return (reduce(torch.add, views) / self._rotations)[0, 0]

    def _embedding(self, key: tuple[bytes, int, int], window: Tensor, call: _Call) -> Tensor:
        embedding = self.cache.get(key)
        if embedding is None:
            with self._encoding:
                self._check(call)
                embedding = self.cache.get(key)  # another call may have made it while this one waited
                if embedding is None:
                    embedding = self._model.encode(window)
                    self.cache.put(key, embedding)
        return embedding

    def _answer(self, current: SliceMaps, call: _Call, done: int, total: int) -> Segmentation:
        with self._lock:
            self._check(call)
            changed = current.update()
            probability = current.probability
            density = current.density(self._kernel) if call.centers and done == total else None
        centers = None if density is None else self._find_centers(current, *density)  # may take seconds: no lock
        return Segmentation(probability, call.points, changed, done, total, centers, self.cfg.TEST.MIN_INSTANCE_SIZE)

    def _find_centers(self, current: SliceMaps, density: Tensor, origin: Tensor) -> Centers:
        points, valid, scores = find_peaks(density[None], self.center_threshold, self._kernel, MAX_CENTERS)
        return Centers(current.to_slice(points[valid] + origin).cpu().numpy(), scores[valid].cpu().numpy())


class _Call(NamedTuple):
    ticket: int
    points: np.ndarray  # (N, 2)
    region: Box
    centers: bool


class _Step(NamedTuple):
    """One window to predict."""

    kind: str
    window: int  # its index
    points: np.ndarray  # (N', 2) in pixels of the window, as the network sees it
    tag: bytes  # says which points
    key: tuple[Any, ...]  # of the prediction in the cache
    pace: int  # 0, 1, 2 ...: those of lower pace come first, and faster


def _digest(image: np.ndarray, intensity_range: Range | None) -> bytes:
    """The same for equal images, and only for them."""
    digest = hashlib.blake2b(repr((image.shape, image.dtype.str, intensity_range)).encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.digest()


def _check_points(points: ArrayLike, height: int, width: int) -> np.ndarray:
    points = np.array(points, dtype=np.float32)  # a copy: the caller may change his
    if points.size == 0:
        points = points.reshape(0, 2)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"points have shape {points.shape}; expected (number, 2), each (x, y) in pixels")
    outside = ~((points >= 0) & (points < (width, height))).all(axis=1)  # NaN is nowhere
    if outside.any():
        index = int(np.flatnonzero(outside)[0])
        x, y = points[index]
        raise ValueError(
            f"point {index} (x={x:g}, y={y:g}) lies outside the image of {width} x {height} px (width x height)"
        )
    points += 0.0  # -0 becomes 0
    points.flags.writeable = False
    return points


def _check_region(region: Box) -> Box:
    try:
        y0, x0, y1, x1 = region
        box = math.floor(y0), math.floor(x0), math.ceil(y1), math.ceil(x1)
    except (TypeError, ValueError, OverflowError) as e:
        raise ValueError(f"region is {region!r}; expected a box (y0, x0, y1, x1) in pixels") from e
    if not (y0 < y1 and x0 < x1):
        raise ValueError(f"region is {region!r}; expected (y0, x0, y1, x1) with y0 < y1 and x0 < x1")
    return box
