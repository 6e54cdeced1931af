"""A new volume as a project: its description, and the config that adapts a network to it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prompt_das.checkpoint.model_zoo import find_weights
from prompt_das.config.load import get_prompt_das_cfg
from prompt_das.data.datasets import names_of
from prompt_das.data.volume_spec import is_description
from prompt_das.utils.atomic_write import atomic_write
from prompt_das.volumes.open_volume import open_volume
from prompt_das.volumes.point_files import read_points

import yaml


@dataclass(frozen=True)
class Project:
    """Files of a project.

    Attributes:
        volume: YAML that describes the volume.
        config: YAML for `prompt-das train`.
        weights: where training will leave them.
        num_points: how many points there are to learn from.
    """

    volume: Path
    config: Path
    weights: Path
    num_points: int

    def commands(self) -> list[str]:
        """What to do next."""
        return [
            f"prompt-das visualize --volume {self.volume} --output {self.volume.parent / 'look'}",
            f"prompt-das train --config-file {self.config}",
        ]


def create_project(
    folder: str | Path,
    name: str,
    volume: str | Path,
    *,
    base: str | Path,
    points: str | Path | None = None,
    source: str | None = None,
    weights: str | Path | None = None,
    dataset: str | None = None,
    voxel_size: Sequence[float] | None = None,
    intensity_range: Sequence[float] | None = None,
) -> Project:
    """Write ``name``.yaml and train.yaml into a folder. Everything is checked first; training can then begin.

    Args:
        folder: is made if it is not there; the results of the training go there, too.
        name: of the volume: letters, digits, _ and -.
        volume, dataset: the images, anything that `open_volume` reads.
        base: a config for domain adaptation, such as configs/rat2human_wda.yaml, whose values hold for all other keys.
        points: file of points; without one the adaptation is unsupervised.
        source: the labeled volume: a registered name, or a YAML file that describes one; by default that of ``base``.
        weights: a trained source model to begin with, instead of training one first: a file, or the name of a model.
        voxel_size: (z, y, x) in nm.
        intensity_range: gray values (lo, hi) that become 0 and 255.

    Raises:
        FileExistsError: there is a project in the folder.
        FileNotFoundError: no volume, points, config or weights.
        ValueError: a name, the points or the config are unusable; the message names them.
    """
    folder = Path(folder).expanduser().resolve()
    description, config = folder / f"{name}.yaml", folder / "train.yaml"
    for path in (description, config):
        if path.exists():
            raise FileExistsError(f"{path} exists already; choose another folder")
    if not re.fullmatch(r"[\w-]+", name):
        raise ValueError(f"the name of a volume is letters, digits, _ and -, not {name!r}")
    images = Path(volume).expanduser().resolve()
    depth, height, width = open_volume(images, dataset).shape
    entry: dict[str, object] = {"name": name, "images": _from(folder, images)}
    num_points = 0
    if points is not None:
        file = Path(points).expanduser().resolve()
        found = read_points(file, open_volume(images, dataset).slice_names, num_slices=depth, size=(height, width))
        num_points = sum(map(len, found.values()))
        if num_points == 0:
            raise ValueError(f"{file} holds no points; click some, or leave it out and adapt without any")
        entry["points"] = _from(folder, file)
    for key, value in (("images_dataset", dataset), ("voxel_size", voxel_size), ("intensity_range", intensity_range)):
        if value is not None:
            entry[key] = value if isinstance(value, str) else [float(number) for number in value]

    base = Path(base).expanduser().resolve()
    if not base.is_file():
        raise FileNotFoundError(f"no config {base}; the repository has some in configs/, those that end in _wda.yaml")
    volumes, names = [str(description)], None
    if source is not None:
        names = names_of(source)
        if is_description(source):
            volumes.append(str(Path(source).expanduser().resolve()))
    start = None
    if weights is not None:
        file = find_weights(weights)  # a name stays one, so that the project can be moved to another machine
        start = str(file.resolve()) if Path(weights).expanduser().is_file() else str(weights)
    cfg = get_prompt_das_cfg(str(base), [] if start is None else ["MODEL.WEIGHTS", start])
    if not cfg.DOMAIN_ADAPT.ENABLED:
        raise ValueError(f"{base} does not adapt to anything; take one that does, as those that end in _wda.yaml")
    names = names or list(cfg.DATASETS.TRAIN)

    with atomic_write(description) as part:
        part.write_text(yaml.safe_dump(entry, sort_keys=False, allow_unicode=True))
    text = _CONFIG.format(
        name=name,
        base=base,
        volumes=tuple(volumes),
        source=tuple(names),
        target=(name,),
        sparse="" if points else "  SPARSE_POINTS: {RATIO: 0.0}  # no points: the source model makes them\n",
        model=f"MODEL: {{WEIGHTS: {start!r}}}\n" if start else "",
        output=str(folder / "output"),
    )
    with atomic_write(config) as part:
        part.write_text(text)
    return Project(description, config, folder / "output" / "model_final.pth", num_points)


def _from(folder: Path, path: Path) -> str:
    """Relative inside the folder, so that it can be moved; else absolute."""
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


_CONFIG = """\
# Adapts a network to the volume {name}. All other keys have the values of {base.name}.
_BASE_: {base}
DATASETS:
  VOLUMES: {volumes}
  TRAIN: {source}
  TARGET: {target}
  VAL: ()
  TEST: ()
{sparse}{model}OUTPUT_DIR: {output!r}
"""
