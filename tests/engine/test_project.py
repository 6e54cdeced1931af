"""A new volume as a project: what is written, and what is refused before anything is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from prompt_das.config.load import get_prompt_das_cfg
from prompt_das.config.schedule import burn_in_iters
from prompt_das.data.datasets import register_config_volumes
from prompt_das.engine.project import Project, create_project
from prompt_das.volumes.point_files import write_points
from prompt_das_cli import main

import numpy as np
import pytest
import tifffile
import yaml
from detectron2.data import DatasetCatalog

pytestmark = pytest.mark.usefixtures("forget_new_names")
CONFIGS = Path(__file__).parents[2] / "configs"
WDA = CONFIGS / "quick" / "synthetic_wda.yaml"


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A volume of 3 x 40 x 50 voxels, 16 bits, and beside it points.json with two points."""
    tifffile.imwrite(
        tmp_path / "scans.tif", np.arange(6000, dtype=np.uint16).reshape(3, 40, 50), photometric="minisblack"
    )
    write_points(tmp_path / "points.json", {0: np.array([[4.5, 5.5]]), 2: np.array([[49.5, 39.5]])})
    return tmp_path / "scans.tif"


@pytest.fixture
def create(scans: Path, tmp_path: Path) -> Callable[..., Project]:
    def create(**kwargs: Any) -> Project:
        settings = {"name": "liver", "volume": scans, "base": WDA, "points": tmp_path / "points.json", **kwargs}
        return create_project(tmp_path / "project", **settings)

    return create


def test_a_project_is_a_leaf_on_a_config(create: Callable[..., Project], tmp_path: Path) -> None:
    project = create(voxel_size=(30, 8, 8), intensity_range=(100, 5000))
    assert project.num_points == 2
    assert yaml.safe_load(project.volume.read_text()) == {
        "name": "liver",
        "images": str(tmp_path / "scans.tif"),
        "points": str(tmp_path / "points.json"),
        "voxel_size": [30, 8, 8],
        "intensity_range": [100, 5000],
    }
    cfg, base = get_prompt_das_cfg(str(project.config)), get_prompt_das_cfg(str(WDA))
    register_config_volumes(cfg)
    assert cfg.DATASETS.TARGET == ("liver",)
    assert cfg.DATASETS.TRAIN == base.DATASETS.TRAIN
    assert cfg.DATASETS.VAL == cfg.DATASETS.TEST == ()
    assert cfg.SOLVER == base.SOLVER
    assert Path(cfg.OUTPUT_DIR) / "model_final.pth" == project.weights
    assert [item["slice"] for item in DatasetCatalog.get("liver")] == [0, 1, 2]


def test_without_points_it_is_unsupervised(create: Callable[..., Project]) -> None:
    project = create(points=None)
    assert project.num_points == 0
    assert get_prompt_das_cfg(str(project.config)).DATASETS.SPARSE_POINTS.RATIO == 0


def test_from_a_source_model_no_burn_in_is_needed(create: Callable[..., Project], tmp_path: Path) -> None:
    (tmp_path / "source.pth").touch()
    cfg = get_prompt_das_cfg(str(create(weights=tmp_path / "source.pth").config))
    assert Path(cfg.MODEL.WEIGHTS) == tmp_path / "source.pth"
    assert burn_in_iters(cfg) == 0


def test_a_model_stays_a_name(create: Callable[..., Project], models_home: Path) -> None:
    (models_home / "em-tiny.safetensors").touch()
    assert get_prompt_das_cfg(str(create(weights="em-tiny").config)).MODEL.WEIGHTS == "em-tiny"


@pytest.mark.parametrize("own", [False, True], ids=["registered", "described by YAML"])
def test_another_source(create: Callable[..., Project], scans: Path, tmp_path: Path, own: bool) -> None:
    (tmp_path / "rat.yaml").write_text("name: rat\nimages: scans.tif\nlabels: scans.tif\n")
    cfg = get_prompt_das_cfg(str(create(source=str(tmp_path / "rat.yaml") if own else "vnc_train").config))
    assert list(cfg.DATASETS.TRAIN) == ["rat" if own else "vnc_train"]


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        ({"volume": "missing.tif"}, FileNotFoundError, "missing.tif does not exist"),
        ({"points": "missing.json"}, FileNotFoundError, "missing.json not found"),
        ({"base": "missing.yaml"}, FileNotFoundError, "no config .*missing.yaml"),
        ({"base": CONFIGS / "vnc2lucchi_source.yaml"}, ValueError, "does not adapt"),
        ({"weights": "missing.pth"}, FileNotFoundError, "no weights at missing.pth"),
        ({"weights": "no-such-model"}, FileNotFoundError, "neither a file nor the name of a model"),
        ({"source": "vnc_trian"}, ValueError, "did you mean vnc_train"),
        ({"name": "my lab"}, ValueError, "'my lab'"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_is_wrong_is_named_before_anything_is_written(
    create: Callable[..., Project], tmp_path: Path, wrong: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        create(**wrong)
    assert not (tmp_path / "project").exists()


def test_points_of_another_volume(create: Callable[..., Project], tmp_path: Path) -> None:
    write_points(tmp_path / "points.json", {7: np.array([[4.5, 5.5]])})
    with pytest.raises(ValueError, match="slice 7, but the volume has slices 0 to 2"):
        create()
    write_points(tmp_path / "points.json", {})
    with pytest.raises(ValueError, match="holds no points"):
        create()


def test_a_project_is_not_replaced(create: Callable[..., Project]) -> None:
    create()
    with pytest.raises(FileExistsError, match="choose another folder"):
        create()


def test_the_program(scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "new-project",
        str(tmp_path / "liver"),
        "--volume",
        str(scans),
        "--points",
        str(tmp_path / "points.json"),
    ]
    main([*command, "--base", str(WDA), "--voxel-size", "30", "8", "8"])
    said = capsys.readouterr().out
    assert "2 points" in said
    assert f"prompt-das train --config-file {tmp_path / 'liver' / 'train.yaml'}" in said
    with pytest.raises(SystemExit, match=r"error: .*exists already"):
        main(command)
