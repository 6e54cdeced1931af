"""Prediction of the windows of a slice: which are needed, in which order, and what is kept of them.

Shapes: N clicks (x, y, label), w side of a window in pixels of the network.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial, reduce
from typing import Any, NamedTuple

from prompt_das.inference.interactive.cache import TensorCache
from prompt_das.inference.interactive.resize import Box
from prompt_das.inference.interactive.slice_maps import AUTOMATIC, CENTERS, MASK, SliceMaps
from prompt_das.modeling.meta_arch import PromptDAS
from prompt_das.ops.sliding_window import check_rotations, predict_view

import numpy as np
import torch
from torch import Tensor

Check = Callable[[], object]  # raises an exception if the result is not needed any more


class WindowStep(NamedTuple):
    """One window to predict.

    Attributes:
        kind: ``MASK``, ``AUTOMATIC`` or ``CENTERS``.
        window: index of the window.
        clicks: (N, 3) in pixels of the window, at the network's resolution.
        click_key: the same for equal clicks, and only for them.
        cache_key: of the prediction.
        pace: 0, 1, 2 ...: steps of lower pace come first, and are faster.
    """

    kind: str
    window: int
    clicks: np.ndarray
    click_key: bytes
    cache_key: tuple[Any, ...]
    pace: int


class WindowPredictor:
    """Predicts one window at a time, with a cache of embeddings and predictions. Threads may share it."""

    def __init__(self, model: PromptDAS, cache: TensorCache) -> None:
        self._model = model
        self._cache = cache
        self._rotations = model.window["rotations"]
        check_rotations(self._rotations)
        self._encoding = threading.Lock()  # one window at a time

    def plan(self, maps: SliceMaps, clicks: np.ndarray, region: Box, centers: bool) -> list[WindowStep]:
        """List the windows to predict, in the order to do it.

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
        kinds = {MASK: in_windows}
        if maps.limited and len(clicks):
            kinds = {AUTOMATIC: none_in_windows, MASK: in_windows}
        if centers:
            kinds[CENTERS] = in_windows
        steps = []
        for kind, clicks_of in kinds.items():
            known = CENTERS if kind == CENTERS else MASK  # AUTOMATIC goes wherever there is a mask
            others = [i for i in range(len(in_windows)) if maps.blend(known).click_key(i) is not None]
            for order, index in enumerate(dict.fromkeys([*wanted, *others])):
                click_key = clicks_of[index].tobytes()
                if click_key != maps.blend(kind).click_key(index):
                    # With no clicks both masks are the same prediction.
                    cache_key = (maps.key, index, MASK if kind == AUTOMATIC else kind, click_key)
                    slow = cache_key not in self._cache and (maps.key, index, 0) not in self._cache
                    pace = 2 * (kind == CENTERS) + slow
                    steps.append((pace, order, WindowStep(kind, index, clicks_of[index], click_key, cache_key, pace)))
        return [step for _, _, step in sorted(steps, key=lambda entry: entry[:2])]

    def predict(self, maps: SliceMaps, step: WindowStep, check: Check) -> Tensor:
        """Predict a window, or take its prediction from the cache: (w, w) probability or density.

        ``check`` is called before a window is encoded, which takes the longest.
        """
        prediction = self._cache.get(step.cache_key)
        if prediction is None:
            prediction = self._decode(maps, step, check)
            self._cache.put(step.cache_key, prediction)
        else:
            for turns in range(self._rotations):  # counts as used: the next click here needs the embedding
                self._cache.get((maps.key, step.window, turns))
        return prediction

    @torch.no_grad()
    def _decode(self, maps: SliceMaps, step: WindowStep, check: Check) -> Tensor:
        def decode_view(turns: int, windows: Tensor, points: Tensor, valid: Tensor) -> Tensor:
            embedding = self.embedding((maps.key, step.window, turns), windows, check)
            size = (windows.shape[-2], windows.shape[-1])
            if step.kind != CENTERS:
                output = self._model.decode(embedding, points[0], valid[0], size, with_density=False)
                return output.logits[None].sigmoid()
            return self._model.decode(embedding, points[0], valid[0], size, with_mask=False).density[None]

        window = maps.window(step.window)[None]
        points = torch.from_numpy(step.clicks).to(self._model.device)[None, None]
        valid = torch.ones(points.shape[:3], dtype=torch.bool, device=self._model.device)
        views = (
            predict_view(partial(decode_view, turns), window, points, valid, turns) for turns in range(self._rotations)
        )
        return (reduce(torch.add, views) / self._rotations)[0, 0]

    def embedding(self, key: tuple[bytes, int, int], window: Tensor, check: Check) -> Tensor:
        """Encode a window (1, 1, w, w), or take its embedding, that of :meth:`PromptDAS.encode`, from the cache.

        Args:
            key: of the slice, the window and its rotation.
        """
        embedding = self._cache.get(key)
        if embedding is None:
            with self._encoding:
                check()
                embedding = self._cache.get(key)  # another call may have made it while this one waited
                if embedding is None:
                    embedding = self._model.encode(window)
                    self._cache.put(key, embedding)
        return embedding
