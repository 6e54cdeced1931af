"""Prediction of the windows of a slice: which are needed, in which order, and what is kept of them.

Windows are encoded in batches, and decoded in batches where they hold no click. Such batches all have one size, so that
what else is in a batch makes no difference, to the last bit: the same kernels compute the same sums. Tested on a CPU.

Shapes: N clicks (x, y, label), w side of a window in pixels of the network, B windows of a batch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial, reduce
from itertools import groupby
from typing import Any, NamedTuple, TypeVar

from prompt_das.inference.interactive.cache import TensorCache
from prompt_das.inference.interactive.resize import Box
from prompt_das.inference.interactive.slice_maps import AUTOMATIC, CENTERS, MASK, SliceMaps
from prompt_das.modeling.meta_arch import PromptDAS
from prompt_das.ops.points import pad_points
from prompt_das.ops.sliding_window import check_rotations, predict_view

import numpy as np
import torch
from torch import Tensor

Check = Callable[[], object]  # raises an exception if the result is not needed any more
EmbeddingKey = tuple[bytes, int, int]  # of the slice, the window and its rotation
T = TypeVar("T")

# Larger batches are hardly faster, and a new click waits for the one in work.
CPU_BATCH_PIXELS, GPU_BATCH_PIXELS = 4 * 128**2, 8 * 384**2


class WindowStep(NamedTuple):
    """One window to predict.

    Attributes:
        kinds: the maps that the prediction goes to: ``MASK``, ``AUTOMATIC``, both of them, or ``CENTERS``.
        window: index of the window.
        clicks: (N, 3) in pixels of the window, at the network's resolution.
        click_key: the same for equal clicks, and only for them.
        cache_key: of the prediction.
        pace: 0, 1, 2 ...: steps of lower pace come first, and are faster.
    """

    kinds: tuple[str, ...]
    window: int
    clicks: np.ndarray
    click_key: bytes
    cache_key: tuple[Any, ...]
    pace: int


class WindowPredictor:
    """Predicts windows in small batches, with a cache of embeddings and predictions. Threads may share it."""

    def __init__(self, model: PromptDAS, cache: TensorCache) -> None:
        self._model = model
        self._cache = cache
        self._rotations = model.window["rotations"]
        check_rotations(self._rotations)
        pixels = CPU_BATCH_PIXELS if model.device.type == "cpu" else GPU_BATCH_PIXELS
        self._max_batch = max(1, min(pixels // model.window["window"] ** 2, model.window["batch_size"]))
        self._encoding = threading.Lock()  # one batch at a time

    def plan(self, maps: SliceMaps, clicks: np.ndarray, region: Box, centers: bool) -> list[list[WindowStep]]:
        """List the windows to predict, in batches and in the order to do it.

        They are those that the region needs and those that were predicted before, less those whose clicks are still
        those of their last prediction.

        Args:
            clicks: (N, 3) in pixels of the slice.
            region: a box (y0, x0, y1, x1) in pixels of the slice.
            centers: the density of centers as well as the mask.
        """
        wanted = maps.windows_of(region)
        in_windows = maps.clicks_per_window(clicks)
        none_in_windows = [one[:0] for one in in_windows]
        clicks_of = {MASK: in_windows}
        if maps.rules.needs_automatic(clicks):
            clicks_of = {AUTOMATIC: none_in_windows, MASK: in_windows}
        if centers:
            clicks_of[CENTERS] = in_windows
        steps: dict[tuple[Any, ...], WindowStep] = {}
        for kind, clicks_in in clicks_of.items():
            known = CENTERS if kind == CENTERS else MASK  # AUTOMATIC goes wherever there is a mask
            others = [i for i in range(len(in_windows)) if maps.blend(known).click_key(i) is not None]
            for index in dict.fromkeys([*wanted, *others]):
                click_key = clicks_in[index].tobytes()
                if click_key != maps.blend(kind).click_key(index):
                    # With no clicks both masks are the same prediction.
                    cache_key = (maps.key, index, MASK if kind == AUTOMATIC else kind, click_key)
                    slow = cache_key not in self._cache and (maps.key, index, 0) not in self._cache
                    pace = 2 * (kind == CENTERS) + slow
                    kinds = (*steps[cache_key].kinds, kind) if cache_key in steps else (kind,)
                    steps[cache_key] = WindowStep(kinds, index, clicks_in[index], click_key, cache_key, pace)
        return list(batches(steps.values(), self._batch_size(maps)))

    def predict(self, maps: SliceMaps, batch: Sequence[WindowStep], check: Check) -> list[Tensor]:
        """Predict a batch of windows, or take predictions from the cache: of each the (w, w) probability or density.

        ``check`` is called before windows are encoded, which takes the longest.
        """
        kept = [self._cache.get(step.cache_key) for step in batch]
        missing = [step for step, prediction in zip(batch, kept, strict=True) if prediction is None]
        new = iter(self._decode(maps, missing, check) if missing else ())
        predictions = []
        for step, prediction in zip(batch, kept, strict=True):
            if prediction is None:
                prediction = next(new)
                self._cache.put(step.cache_key, prediction)
            else:
                for turns in range(self._rotations):  # counts as used: the next click here needs the embedding
                    self._cache.get((maps.key, step.window, turns))
            predictions.append(prediction)
        return predictions

    @torch.no_grad()
    def _decode(self, maps: SliceMaps, steps: Sequence[WindowStep], check: Check) -> list[Tensor]:
        numbers = [len(step.clicks) for step in steps]
        padded = steps if any(numbers) else pad(steps, self._batch_size(maps))
        decode = partial(self._decode_embeddings, of_centers=CENTERS in steps[0].kinds)

        def decode_view(turns: int, windows: Tensor, points: Tensor, valid: Tensor) -> Tensor:
            keys = [(maps.key, step.window, turns) for step in padded]
            embedding = self.embeddings(keys, windows, self._batch_size(maps), check)
            if not any(numbers):
                return decode(embedding, points[:, 0], valid[:, 0])
            # One by one: padding to the most clicks of a batch would round otherwise in each.
            batch = zip(embedding.split(1), points.split(1), valid.split(1), numbers, strict=True)
            return torch.cat([decode(e, p[:, 0, :n], v[:, 0, :n]) for e, p, v, n in batch])

        windows = torch.stack([maps.window(step.window) for step in padded])
        points, valid = pad_points([torch.from_numpy(step.clicks) for step in padded])
        points, valid = points[:, None].to(self._model.device), valid[:, None].to(self._model.device)
        views = (
            predict_view(partial(decode_view, turns), windows, points, valid, turns) for turns in range(self._rotations)
        )
        predictions = reduce(torch.add, views) / self._rotations
        return [predictions[i, 0].clone() for i in range(len(steps))]

    def _decode_embeddings(self, embedding: Tensor, points: Tensor, valid: Tensor, *, of_centers: bool) -> Tensor:
        """Embeddings of windows, their clicks (B, N, 3), (B, N) -> probability or density of centers, (B, 1, w, w)."""
        size = (self._model.window["window"],) * 2
        out = self._model.decode(embedding, points, valid, size, with_mask=not of_centers, with_density=of_centers)
        return out.density[:, None] if of_centers else out.logits[:, None].sigmoid()

    def _batch_size(self, maps: SliceMaps) -> int:
        return min(self._max_batch, maps.num_windows)

    def embeddings(self, keys: Sequence[EmbeddingKey], windows: Tensor, batch_size: int, check: Check) -> Tensor:
        """Encode windows (B, 1, w, w), or take their embeddings, those of :meth:`PromptDAS.encode`, from the cache."""
        found = self._kept(keys)
        if len(found) < len(set(keys)):
            with self._encoding:
                check()
                found = self._kept(keys)  # another call may have made them while this one waited
                missing = {key: w for key, w in zip(keys, windows, strict=True) if key not in found}
                found |= self._encode(missing, batch_size)
        return torch.cat([found[key] for key in keys])

    def _kept(self, keys: Iterable[EmbeddingKey]) -> dict[EmbeddingKey, Tensor]:
        return {key: embedding for key in keys if (embedding := self._cache.get(key)) is not None}

    def _encode(self, windows: dict[EmbeddingKey, Tensor], batch_size: int) -> dict[EmbeddingKey, Tensor]:
        """Windows (1, w, w) by key -> their embeddings, each a batch of one, which the cache keeps from now on."""
        if not windows:
            return {}
        batch = self._model.encode(torch.stack(pad(list(windows.values()), batch_size)))
        embeddings = {key: batch[i : i + 1].clone() for i, key in enumerate(windows)}
        for key, embedding in embeddings.items():
            self._cache.put(key, embedding)
        return embeddings


def batches(steps: Iterable[WindowStep], size: int) -> Iterator[list[WindowStep]]:
    """Sort steps, those with clicks first, and cut those of one pace into batches of at most ``size``."""

    def order(step: WindowStep) -> tuple[int, bool, bool]:
        return step.pace, not len(step.clicks), CENTERS in step.kinds

    for _, group in groupby(sorted(steps, key=order), order):
        alike = list(group)
        yield from (alike[i : i + size] for i in range(0, len(alike), size))


def pad(items: Sequence[T], length: int) -> list[T]:
    """Repeat the last item until there are ``length``."""
    return [*items, *[items[-1]] * (length - len(items))]
