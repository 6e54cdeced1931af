"""Reports of an evaluation: table, per-slice CSV, JSON, COCO RLE and pictures. No file is left half-written."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prompt_das.evaluation import metrics
from prompt_das.utils.atomic_write import atomic_write
from prompt_das.utils.visualization import TRUTH, draw_overlay, tile

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from tabulate import tabulate

PICTURE_SIDE = 768  # px; the longer side of one panel, slices are shrunk to it, small ones drawn up to twice as large


def table(results: Mapping[str, Mapping[str, float]]) -> str:
    """Text table of an evaluation's results: one for the metrics, one for the prompt response if there is any."""
    head = [*metrics.SCORES, *(f"pooled {name}" for name in metrics.SCORES[:3])]
    rows = [[*key.split("/", 1), *(row[name] for name in head)] for key, row in results.items() if "Dice" in row]
    text = tabulate(rows, ["protocol", "prompts", *head], floatfmt=".2f")
    response_rows = [
        [protocol, key.split("/", 1)[1], row[f"{protocol} missed"], row[f"{protocol} found"], row[protocol]]
        for key, row in results.items()
        for protocol in row
        if f"{protocol} missed" in row
    ]
    if response_rows:
        head = ["protocol", "prompts", "missed without, prompted", "found", "prompt response"]
        text += "\n\n" + tabulate(response_rows, head, floatfmt=".2f")
    return text


def write_per_slice(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """CSV with one row for each slice, protocol and ratio: scores in percent, then the counts behind them."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["image_id", "protocol", "prompts", *metrics.SCORES, *metrics.COUNTS])
    for record in records:
        for (protocol, ratio), counts in record["counts"].items():
            scores = metrics.scores(counts)
            percent = [f"{100 * scores[name]:.4f}" for name in metrics.SCORES]
            writer.writerow([record["image_id"], protocol, ratio, *percent, *(counts[name] for name in metrics.COUNTS)])
    write_bytes(path, out.getvalue().encode())


def write_json(path: Path, content: Any) -> None:
    """Strict JSON: nan becomes null."""
    write_bytes(path, json.dumps(_without_nan(content), indent=1, allow_nan=False).encode())


def click_plot(models: Mapping[str, Mapping[str, Mapping[int, Mapping[str, float]]]]) -> bytes:
    """PNG of Dice and PQ against the number of clicks, one line for each model and simulated user.

    Args:
        models: for each name of a model, for each user, for each number of clicks the scores in percent.
    """
    from matplotlib.figure import Figure  # here: only this needs it, and it takes half a second

    figure = Figure(figsize=(10, 3.4), layout="constrained")
    panels = figure.subplots(1, 2)
    for panel, score in zip(panels, ("Dice", "PQ"), strict=True):
        for color, (model, users) in enumerate(models.items()):
            for style, (user, curve) in zip(("-", "--", ":"), users.items(), strict=False):
                numbers = list(curve)
                label = ", ".join(part for part in (model, user) if part)
                values = [curve[number][score] for number in numbers]
                panel.plot(numbers, values, style, marker="o", markersize=3, color=f"C{color}", label=label)
        panel.set(xlabel="clicks a slice", ylabel=f"{score} in %", xscale="symlog")
        panel.set_xticks(numbers, [str(number) for number in numbers])
        panel.grid(alpha=0.3)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", fontsize="small")
    out = io.BytesIO()
    figure.savefig(out, dpi=110)
    return out.getvalue()


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file that is complete or not there."""
    with atomic_write(path) as part:
        part.write_bytes(content)


def coco_instances(labels: NDArray, probability: NDArray, image_id: str) -> list[dict[str, Any]]:
    """The instances of a label map (H, W) in COCO's result format, with compressed RLE.

    One pass over the column-major runs of the map, instead of one mask per instance. The score of an instance is
    its mean foreground probability.
    """
    flat = labels.ravel(order="F")
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    ends = np.append(starts[1:], flat.size)
    sums = np.add.reduceat(probability.ravel(order="F"), starts, dtype=np.float64)
    order = np.argsort(flat[starts], kind="stable")  # runs grouped by instance, in the order of pixels within each
    ids, first = np.unique(flat[starts][order], return_index=True)
    results = []
    for instance, runs in zip(ids, np.split(order, first[1:]), strict=True):
        if instance == 0:
            continue
        edges = np.stack([starts[runs], ends[runs]], axis=1).ravel()
        if edges[-1] < flat.size:
            edges = np.append(edges, flat.size)
        counts = np.diff(edges, prepend=0)  # pixels outside, inside, outside, ... the instance
        rle = coco_mask.frPyObjects({"size": list(labels.shape), "counts": counts.tolist()}, *labels.shape)
        segmentation = {"size": list(labels.shape), "counts": rle["counts"].decode("ascii")}
        score = float(sums[runs].sum() / (ends[runs] - starts[runs]).sum())
        results.append({"image_id": image_id, "category_id": 1, "segmentation": segmentation, "score": score})
    return results


def picture(
    image: NDArray, instances: NDArray, predicted: Mapping[str, NDArray], prompts: Mapping[str, NDArray]
) -> bytes:
    """PNG of a slice: the truth, then the prediction of the first and of the last ratio with their prompts.

    Args:
        image: intensities 0..255, of any size.
        instances: (H, W) true ids.
        predicted, prompts: for each ratio a label map (H, W), and points (N, 2) or clicks (N, 3).
    """
    height, width = instances.shape
    if image.shape != instances.shape:  # the network may take a resized slice
        image = cv2.resize(np.asarray(image, np.float32), (width, height), interpolation=cv2.INTER_AREA)
    scale = min(2.0, PICTURE_SIDE / max(height, width))
    panels = {"Truth": draw_overlay(image, instances, color=TRUTH, scale=scale)}
    for ratio in [*list(predicted)[:1], *list(predicted)[-1:]]:
        points = prompts.get(ratio)
        panels[f"Prediction, {ratio} prompts"] = draw_overlay(image, predicted[ratio], points, scale=scale)
    sheet = tile(list(panels.values()), list(panels))
    ok, png = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    if not ok:
        raise RuntimeError(f"OpenCV could not encode a picture of shape {sheet.shape}")
    return png.tobytes()


def file_stem(text: str) -> str:
    """The text as part of a file name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text)


def _without_nan(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
