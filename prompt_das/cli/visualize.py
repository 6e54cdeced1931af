"""Draw what the network will see: slices and training crops, with masks and points."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from prompt_das.config.load import get_prompt_das_cfg
from prompt_das.data.build import SampleStream, get_slices
from prompt_das.data.dataset_mapper import SourceMapper, TargetMapper
from prompt_das.data.datasets import register_config_volumes, register_volumes_from_yaml
from prompt_das.data.physical_scale import NetworkScale, require_one_volume, with_diameter
from prompt_das.data.slices import read_image, read_labels
from prompt_das.data.sparse_points import find_points_file, get_sparse_points
from prompt_das.ops.connected_components import connected_components
from prompt_das.ops.points import instance_centers, pad_points, render_density
from prompt_das.utils.visualization import ESTIMATE, PROMPT, TRUTH, draw_density, draw_overlay, save_image, tile
from prompt_das.volumes.point_files import SlicePoints
from prompt_das.volumes.resize import resize_labels

import numpy as np
from detectron2.config import CfgNode
from tqdm import tqdm

SMALLEST_PANEL = 320  # crops are enlarged to at least this many pixels


def get_cfg(args: argparse.Namespace) -> CfgNode:
    """The config of the arguments; drawn points go to the folder of the pictures, not to that of a training run."""
    names = args.dataset or []
    if args.volume:
        registered = register_volumes_from_yaml(args.volume)
        names = names or registered
    opts = [*args.opts, "OUTPUT_DIR", args.output]
    if args.points:
        opts += ["DATASETS.SPARSE_POINTS.FILE", args.points]
    if names:
        register_config_volumes(get_prompt_das_cfg(args.config_file, opts))
        source = [name for name in names if has_labels(name) and not args.points]
        target = [name for name in names if name not in source]
        opts += ["DATASETS.TRAIN", str(tuple(source)), "DATASETS.TARGET", str(tuple(target))]
    cfg = get_prompt_das_cfg(args.config_file, opts)
    register_config_volumes(cfg)
    shown = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TARGET)
    if not shown:
        raise ValueError("nothing to show: give --config-file, --dataset or --volume")
    if args.diameter is not None:
        require_one_volume(shown)
        cfg.defrost()
        cfg.merge_from_list(with_diameter(cfg, args.diameter))
        cfg.freeze()
    return cfg


def has_labels(name: str) -> bool:
    return get_slices((name,))[0]["label_file_name"] is not None


def sparse_points(cfg: CfgNode) -> dict[str, SlicePoints]:
    """Sparse points of the target volumes; none where there is nothing to take them from, as before a first UDA run."""
    file = cfg.DATASETS.SPARSE_POINTS.FILE
    names = [name for name in cfg.DATASETS.TARGET if find_points_file(name, file) or has_labels(name)]
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TARGET = tuple(names)
    Path(cfg.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
    return get_sparse_points(cfg)


def draw_slice(dataset_dict: dict[str, Any], points: np.ndarray | None, scale: float, max_size: int) -> np.ndarray:
    """Draw a whole slice with its mask and points (N, 2 or 3): the given ones, or the centers of all instances.

    The image has the pixels that the network gets, ``scale`` for each pixel of the slice; it is reduced where its
    longest side exceeds ``max_size``.
    """
    labels = read_labels(dataset_dict) if dataset_dict["label_file_name"] is not None else None
    title = dataset_dict["image_id"]
    if labels is not None:
        _, centers = instance_centers(connected_components(labels > 0))
        points = centers if points is None else points
        title += f": {len(centers)} instances"
    points = np.zeros((0, 2)) if points is None else points
    title += f", {len(points)} points"
    if scale != 1:
        title += f", {scale:.3g} network pixels a pixel"
        points = points * [scale, scale, 1][: points.shape[1]]
    image, labels = read_image(dataset_dict, scale=scale), None if labels is None else resize_labels(labels, scale)
    reduced = min(1.0, max_size / max(image.shape))
    return tile([draw_overlay(image, labels, points, color=TRUTH, scale=reduced)], [title])


def source_panels(sample: dict[str, Any], sigma: float) -> list[np.ndarray]:
    """Pictures of a source sample: image with mask, centers and prompts; target density."""
    image, mask = sample["image"][0].numpy(), sample["mask"].numpy()
    scale = max(1, round(SMALLEST_PANEL / image.shape[0]))
    picture = draw_overlay(
        image, mask, sample["points"].numpy(), color=TRUTH, point_color=ESTIMATE, marker="cross", scale=scale
    )
    # Prompts go on top of the centers that they are a subset of; both pictures have the same size.
    picture = draw_overlay(picture, points=sample["prompts"].numpy() * scale)
    points, valid = pad_points([sample["points"]])
    density = render_density(points, valid, image.shape, sigma)[0].numpy()
    return [picture, draw_density(density, image, scale=scale)]


def target_panels(sample: dict[str, Any]) -> list[np.ndarray]:
    """The teacher's view and the student's, with the sparse points moved along."""
    weak, strong = sample["weak_image"][0].numpy(), sample["image"][0].numpy()
    scale = max(1, round(SMALLEST_PANEL / weak.shape[0]))
    return [
        draw_overlay(weak, points=sample["sparse_points"].numpy(), scale=scale),
        draw_overlay(strong, points=sample["strong_sparse_points"].numpy(), scale=scale),
    ]


def write_crops(path: Path, rows: list[list[np.ndarray]], titles: list[str], legend: dict[str, Any]) -> None:
    panels = [panel for row in rows for panel in row]
    per_line = len(titles) * (2 if len(rows) > 1 else 1)  # two samples in a line
    save_image(path, tile(panels, titles * len(rows), columns=per_line, legend=legend))
    print(path)


def run(args: argparse.Namespace) -> None:
    cfg = get_cfg(args)
    output = Path(args.output)
    network_scale = NetworkScale.from_config(cfg)
    scales = {
        name: network_scale.of_slice(get_slices((name,))[0]) for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TARGET)
    }
    points = sparse_points(cfg)
    for name, scale in scales.items():
        slices = get_slices((name,))
        if slices[0].get("synthetic"):
            continue  # there are no slices: each crop is drawn anew
        chosen = np.unique(np.linspace(0, len(slices) - 1, args.slices).round().astype(int))
        for i in tqdm(chosen, desc=name, unit="slice"):
            dataset_dict = slices[i]
            given = (
                points.get(name, {}).get(dataset_dict["slice"], np.zeros((0, 2)))
                if name in cfg.DATASETS.TARGET
                else None
            )
            save_image(
                output / f"{dataset_dict['image_id']}.png".replace("/", "_"),
                draw_slice(dataset_dict, given, scale, args.max_size),
            )

    source_rows: list[list[np.ndarray]] = []
    target_rows: list[list[np.ndarray]] = []
    seed, max_corrupt = max(cfg.SEED, 0), cfg.DATALOADER.MAX_CORRUPT_SLICES
    if cfg.DATASETS.TRAIN and args.crops:
        stream = SampleStream(get_slices(cfg.DATASETS.TRAIN), SourceMapper(cfg), (seed, 0), max_corrupt)
        source_rows = [source_panels(stream[n], cfg.MODEL.CENTER_HEAD.SIGMA) for n in range(args.crops)]
        legend = {"mask": TRUTH, "center": ESTIMATE, "prompt": PROMPT}
        write_crops(output / "crops_source.png", source_rows, ["source crop", "density map"], legend)
    if cfg.DATASETS.TARGET and args.crops:
        stream = SampleStream(get_slices(cfg.DATASETS.TARGET), TargetMapper(cfg, points), (seed, 1), max_corrupt)
        target_rows = [target_panels(stream[n]) for n in range(args.crops)]
        titles = ["teacher's view", "student's view"]
        write_crops(output / "crops_target.png", target_rows, titles, {"sparse point": PROMPT})
    if source_rows and target_rows:
        rows = [[source[0], target[0]] for source, target in zip(source_rows, target_rows, strict=True)]
        write_crops(
            output / "source_and_target.png",
            rows,
            ["source", "target"],
            {"mask": TRUTH, "center": ESTIMATE, "point": PROMPT},
        )
