"""The first hour with a strange volume, in three minutes: automatic result, ten clicks, adaptation, the result after.

The volume is synthetic, of a style that the model's training does not draw: another generator, with slices that belong
together.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

from prompt_das.cli.adapt import show_warnings_only
from prompt_das.engine.adapt import adapt
from prompt_das.evaluation.clicks import USERS, corrective_click
from prompt_das.evaluation.metrics import evaluate_slice
from prompt_das.inference.interactive.predictor import Predictor
from prompt_das.inference.volume.source import VolumeSource
from prompt_das.ops.connected_components import semantic_to_instances
from prompt_das.ops.points import as_clicks, instance_centers
from prompt_das.utils.visualization import draw_overlay, save_image, tile
from prompt_das.volumes.point_files import SliceClicks, write_points
from prompt_das.volumes.synthetic import make_synthetic_volume

import numpy as np
import tifffile
from tabulate import tabulate
from tqdm import tqdm

SHAPE = (20, 320, 320)
VOXEL_SIZE = (45.0, 12.0, 12.0)  # nm: typical mitochondria are 20 pixels wide
STYLE, SEED = "target", 3
CLICKED_SLICES = (4, 9)  # five clicks each
SHOWN_SLICE = 14
CLICKS_A_SLICE, POSITIVE_CLICKS = 5, 3
METRICS = ("Dice", "AJI", "PQ")


@dataclass(frozen=True)
class UnseenVolume:
    """A volume that nobody has trained on: images and instance ids (Z, H, W), and the file of the images."""

    images: np.ndarray
    truth: np.ndarray
    file: Path


def make_unseen_volume(folder: Path) -> UnseenVolume:
    """Write the volume as a TIFF that carries its voxel size."""
    images, truth = make_synthetic_volume(SHAPE, STYLE, SEED)
    folder.mkdir(parents=True, exist_ok=True)
    z, y, x = (size / 1000 for size in VOXEL_SIZE)
    metadata = {"axes": "ZYX", "spacing": z, "unit": "um"}
    file = folder / "stranger.tif"
    tifffile.imwrite(file, images, imagej=True, resolution=(1 / x, 1 / y), metadata=metadata)
    return UnseenVolume(images, truth, file)


def predict(predictor: Predictor, volume: UnseenVolume, clicks: SliceClicks, title: str) -> list[np.ndarray]:
    """The mask (H, W) bool of each slice, given the clicks on it."""
    masks = []
    for z, image in enumerate(tqdm(volume.images, desc=title, unit="slice")):
        on_slice = clicks.get(z, np.zeros((0, 3), np.float32))
        masks.append(predictor.predict(on_slice[:, :2], on_slice[:, 2], image=image).mask)
    return masks


def click(predictor: Predictor, volume: UnseenVolume) -> SliceClicks:
    """Ten clicks: on each slice three on the mitochondria that the network covers least, two at the largest errors."""
    rng = np.random.default_rng(0)
    clicks: SliceClicks = {}
    for z in CLICKED_SLICES:
        ids, centers = instance_centers(volume.truth[z])
        mask = predictor.predict([], image=volume.images[z]).mask
        covered = np.argsort([mask[volume.truth[z] == one].mean() for one in ids], kind="stable")
        so_far = as_clicks(centers[covered[:POSITIVE_CLICKS]])
        for _ in range(CLICKS_A_SLICE - len(so_far)):
            mask = predictor.predict(so_far[:, :2], so_far[:, 2], image=volume.images[z]).mask
            so_far = np.concatenate([so_far, corrective_click(volume.truth[z] > 0, mask, USERS["careful"], rng)])
        clicks[z] = so_far
    return clicks


def score(masks: list[np.ndarray], volume: UnseenVolume, slices: list[int]) -> dict[str, float]:
    """Scores of masks (H, W) bool, one for each slice of the volume: means over ``slices``, in percent."""
    each = [evaluate_slice(volume.truth[z], semantic_to_instances(masks[z])) for z in slices]
    return {metric: round(100 * float(np.mean([one[metric] for one in each])), 2) for metric in METRICS}


def draw(
    volume: UnseenVolume,
    clicks: SliceClicks,
    before: list[np.ndarray],
    clicked: list[np.ndarray],
    after: list[np.ndarray],
) -> np.ndarray:
    """Draw a slice with clicks, and one without, from stage to stage -> (h, w, 3) RGB. Masks as in :func:`predict`."""
    z, other = CLICKED_SLICES[0], SHOWN_SLICE
    panels = {
        "A slice, not clicked on": draw_overlay(volume.images[other], scale=1.5),
        "As the model comes": draw_overlay(volume.images[other], before[other], scale=1.5),
        "Adapted with ten clicks": draw_overlay(volume.images[other], after[other], scale=1.5),
        "Another slice": draw_overlay(volume.images[z], before[z], scale=1.5),
        "… with its five clicks": draw_overlay(volume.images[z], clicked[z], clicks[z][:, :2], scale=1.5),
        "… adapted, without them": draw_overlay(volume.images[z], after[z], scale=1.5),
    }
    return tile(list(panels.values()), list(panels), columns=3)


def run(args: argparse.Namespace) -> None:
    show_warnings_only()
    volume = make_unseen_volume(args.output)
    predictor = Predictor(args.weights, pixel_size=VOXEL_SIZE[1], opts=args.opts)
    before = predict(predictor, volume, {}, "As the model comes")
    clicks = click(predictor, volume)
    write_points(args.output / "clicks.json", clicks)
    clicked = predict(predictor, volume, clicks, "With ten clicks")
    adapted = adapt(
        args.weights,
        VolumeSource(volume.file, points=args.output / "clicks.json"),
        args.output / "adapted.safetensors",
        minutes=args.minutes,
        overwrite=True,
        opts=args.opts,
    )
    predictor = Predictor(adapted.output, pixel_size=VOXEL_SIZE[1])
    after = predict(predictor, volume, {}, "Adapted")
    both = predict(predictor, volume, clicks, "Adapted, with the clicks")

    on, off = list(CLICKED_SLICES), [z for z in range(len(volume.images)) if z not in CLICKED_SLICES]
    stages = {"as the model comes": before, "with ten clicks": clicked, "adapted": after, "adapted, with them": both}
    results = {
        name: {"slices clicked on": score(masks, volume, on), "all others": score(masks, volume, off)}
        for name, masks in stages.items()
    }
    (args.output / "demo.json").write_text(json.dumps(results, indent=2) + "\n")
    save_image(args.output / "demo.png", draw(volume, clicks, before, clicked, after))
    rows = [
        [name, *(part[metric] for part in of_stage.values() for metric in METRICS)]
        for name, of_stage in results.items()
    ]
    head = ["", *(f"{part}: {metric}" for part in ("2 slices clicked on", "18 others") for metric in METRICS)]
    print(f"\n{args.weights} on a volume of a style that it has not seen, in percent")
    print(tabulate(rows, head, tablefmt="github", floatfmt=".1f"))
    print(f"\nThe same numbers: {args.output / 'demo.json'}\nA look at it:     {args.output / 'demo.png'}")
