"""Comparison of finished segmentations, of this or any other tool, with a labeled volume."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from prompt_das.data.label_volumes import LabelVolume, open_labels, open_truth, require_comparable, short_names
from prompt_das.evaluation import comparison_report
from prompt_das.evaluation.label_volumes import LabelComparison
from prompt_das.evaluation.reports import write_json
from prompt_das.utils.atomic_write import atomic_folder
from prompt_das.utils.output_paths import require_apart
from prompt_das.utils.visualization import save_image

Progress = Callable[[Iterable[int]], Iterable[int]]


def compare_labels(
    truth: str,
    predictions: Sequence[str],
    *,
    output: Path | None = None,
    num_pictures: int = 3,
    progress: Progress = iter,
) -> dict[str, Any]:
    """Compare label volumes with the truth -> results of :meth:`LabelComparison.results`.

    Args:
        truth: see :func:`open_truth`.
        predictions: see :func:`open_labels`.
        output: a new folder for summary.json, where the counts of each slice are as well, and pictures/; None writes
            nothing. It appears when it is complete.
        num_pictures: slices drawn, evenly spaced from the best to the worst.
        progress: wraps the numbers of the slices.

    Returns:
        the results, with ``truth`` and each prediction naming its ``path``, ``shape`` (Z, H, W), ``voxel_size``
        (z, y, x) in nm or None, and ``notes``: what a reader of the numbers must know.

    Raises:
        FileExistsError, FileNotFoundError, ValueError: what is wrong with the output or the volumes, before the
            comparison begins.
    """
    if num_pictures < 0:
        raise ValueError(f"the number of pictures is {num_pictures}; it is 0 or more")
    names = short_names(predictions)
    true, volumes = open_truth(truth), {name: open_labels(path) for name, path in zip(names, predictions)}
    if output is not None:
        require_apart([output], [path for volume in (true, *volumes.values()) for path in volume.paths])
    with atomic_folder(output) if output is not None else nullcontext() as folder:
        require_comparable(true, list(volumes.values()))
        comparison = LabelComparison(names, truth_is_mask=true.is_mask)
        for z in progress(range(len(true.slices))):
            comparison.add(true.read(z), {name: volume.read(z) for name, volume in volumes.items()})
        results = comparison.results()
        results["truth"]["path"] = truth
        for name, path in zip(names, predictions):
            results["predictions"][name]["path"] = path
        results |= {
            "shape": list(true.shape),
            "voxel_size": true.slices[0].get("voxel_size"),
            "min_size": comparison.min_size,
            "notes": _notes(true, comparison),
        }
        if folder is not None:
            write_json(folder / "summary.json", {**results, "slices": comparison.slices})
            for z in comparison_report.slices_to_draw(comparison.slices, num_pictures):
                labels = {name: volume.read(z) for name, volume in volumes.items()}
                picture = comparison_report.picture(true.image(z), true.read(z), labels)
                save_image(folder / "pictures" / f"slice_{z:04d}.png", picture)
    return results


def _notes(truth: LabelVolume, comparison: LabelComparison) -> list[str]:
    notes = [
        f"{name} holds the single id {instance}: if it is a mask, only `paper` and Dice mean something; label its "
        "components first"
        for name, instance in comparison.single_ids().items()
    ]
    if truth.is_mask:
        notes.append(f"the truth, {truth.name}, is a mask: instances in 3-D and protocol `instance` need ids")
    return notes
