"""A whole slice through PromptDAS's sliding window in both test protocols, and its metrics on the host."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

from prompt_das.evaluation.metrics import evaluate_slice
from prompt_das.modeling import PromptDAS
from prompt_das.modeling.load import build_model
from prompt_das.modeling.precision import computed_precision
from prompt_das.ops.connected_components import connected_components, semantic_to_instances
from prompt_das.ops.sliding_window import WINDOW_PRESETS, WindowGrid

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import Tensor

from .flops import count_flop
from .measure import Laps, peak_memory, seconds, spread
from .metrics import DENSITY, label_maps


def benchmark_slice(
    cfg: CfgNode, side: int, batches: list[int], repeats: int, seed: int, seconds_left: Callable[[], float]
) -> dict[str, Any]:
    """Seconds of ``PromptDAS.inference`` on a random slice of ``side``²: the image from the host, the maps back on it.

    A case is repeated as often as the time that is left allows, to judge from its warm-up, and left out if not once.
    """
    torch.manual_seed(seed)
    model = build_model(cfg).eval()
    image = torch.randint(0, 256, (1, side, side), dtype=torch.uint8)
    window = cfg.INPUT.CROP_SIZE
    cases, left_out = [], []
    for protocol, density, batch in itertools.product(("fast", "paper"), (False, True), batches):
        stride = window * WINDOW_PRESETS[protocol]["stride"] // WINDOW_PRESETS[protocol]["window"]
        rotations = WINDOW_PRESETS[protocol]["rotations"]
        model.window = {**model.window, "stride": stride, "rotations": rotations, "batch_size": batch}
        windows = number_of_windows(side, window, stride)
        case = {"protocol": protocol, "density": density, "batch": batch, "windows": windows}
        case["views"] = windows * rotations

        if seconds_left() <= 0:
            left_out.append(case)
            continue
        corner = image[:, : window + stride, : window + batch // 2 * stride]  # at most 2 rows: about one full batch
        predict(model, corner, density)
        taken = seconds(partial(predict, model, corner, density), model.device)
        expected = taken * windows / number_of_windows(corner.shape[1:], window, stride)
        fits = min(repeats, int(seconds_left() / expected))
        if fits < 1:
            left_out.append(case)
            continue
        laps = Laps(model.device)
        run = partial(laps, "slice", partial(predict, model, image, density))
        memory = peak_memory(run, model.device)
        for _ in range(fits - 1):
            run()
        cases.append({**case, "seconds": spread(laps.seconds["slice"]), "peak memory, MB": memory / 1e6})
    return {
        "side": side,
        "window": window,
        "precision": computed_precision(cfg.MODEL.PRECISION, model.device),
        "GFLOP of a window": {str(density): flop_of_window(model, density) / 1e9 for density in (False, True)},
        "cases": cases,
        "cases left out": left_out,
    }


def number_of_windows(size: int | tuple[int, ...], window: int, stride: int) -> int:
    height, width = (size, size) if isinstance(size, int) else size
    return len(WindowGrid((height, width), window=window, stride=stride, blend="uniform").corners)


def predict(model: PromptDAS, image: Tensor, density: bool) -> list[Tensor]:
    (answer,) = model([{"image": image, "density": density}])
    return [one.cpu() for maps in answer.values() for one in maps.values()]


@torch.no_grad()
def flop_of_window(model: PromptDAS, density: bool) -> int:
    side = model.window["window"]
    window = torch.rand(1, 1, side, side, device=model.device)
    points = window.new_zeros(1, 1, 0, 2)
    run = model.predict_windows_and_density if density else model.predict_windows
    return count_flop(lambda: run(window, points, points[..., 0].bool()))


def benchmark_metrics(cfg: CfgNode, side: int, repeats: int, seed: int) -> dict[str, Any]:
    """Seconds of what evaluation does with a slice on the host: instances of both masks, then Dice, AJI and PQ.

    Not of the slice that was predicted: untrained, that is noise. Label maps of the same size, as dense as MitoEM's.
    """
    true, pred = label_maps(side, max(1, round(DENSITY * side**2)), np.random.default_rng(seed))
    laps = Laps()
    for _ in range(repeats):
        instances = laps(
            "instances of both masks",
            lambda: (connected_components(true > 0), semantic_to_instances(pred > 0, cfg.TEST.MIN_INSTANCE_SIZE)),
        )
        laps("Dice, AJI and PQ", partial(evaluate_slice, *instances))
    return {"side": side, "seconds": {name: spread(times) for name, times in laps.seconds.items()}}
