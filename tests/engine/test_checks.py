"""What a new user gets wrong in a config, and the one line that names the key, the value and what is allowed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prompt_das.cli.train import run_process
from prompt_das.data.datasets import register_em_volume

import pytest
from detectron2.engine import default_argument_parser

pytestmark = pytest.mark.usefixtures("forget_new_names", "quiet_logging")
WDA = Path(__file__).parents[2] / "configs" / "quick" / "synthetic_wda.yaml"


@pytest.fixture
def first_words(
    tiny: list[str], synthetic_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Start a weakly supervised run with changes of its config -> the one line that it ends with."""

    def no_network(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a network is built before everything is checked")

    monkeypatch.setattr("prompt_das.modeling.meta_arch.PromptDAS.__init__", no_network)

    def start(*words: str) -> str:
        flags, changes = [w for w in words if w.startswith("--")], [w for w in words if not w.startswith("--")]
        options = [*tiny, "OUTPUT_DIR", str(tmp_path / "output"), *changes]
        args = default_argument_parser().parse_args([*flags, "--config-file", str(WDA), *options])
        with pytest.raises(SystemExit) as exit_:
            run_process(args)
        line = str(exit_.value.code)
        assert line.startswith("error: ")
        assert "\n" not in line
        return line

    return start


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("DATASETS.TRAIN", "vnc_train", r"^error: DATASETS.TRAIN is 'vnc_train'; .* write \('vnc_train',\)"),
        ("DATASETS.TRAIN", "()", "DATASETS.TRAIN is empty"),
        ("DATASETS.TRAIN", "('vnc_trian',)", "DATASETS.TRAIN: unknown data set 'vnc_trian', did you mean vnc_train"),
        ("DATASETS.TRAIN", "('lucchi_train',)", "DATASETS.TRAIN: .*lucchi"),  # its files are not there
        ("DATASETS.TARGET", "()", "needs DATASETS.TARGET"),
        ("DATASETS.TARGET", "('tagret',)", "DATASETS.TARGET: unknown data set 'tagret'"),
        ("DATASETS.VAL", "('vla',)", "DATASETS.VAL: unknown data set 'vla'"),
        ("INPUT.PIXEL_SIZE", "0.008", "INPUT.PIXEL_SIZE is 0.008; it is in nanometers, and this looks like µm"),
        ("DATASETS.TEST", "('tset',)", "DATASETS.TEST: unknown data set 'tset'"),
        ("DATASETS.SPARSE_POINTS.RATIO", "2", "DATASETS.SPARSE_POINTS.RATIO is 2.0; use 0 to 1"),
        ("DATASETS.SPARSE_POINTS.FILE", "nowhere.json", "DATASETS.SPARSE_POINTS: .*nowhere.json"),
        ("TEST.WINDOW.STRIDE", "64", "TEST.WINDOW.STRIDE is 64; use at most INPUT.CROP_SIZE 32"),
        ("TEST.WINDOW.ROTATIONS", "3", "TEST.WINDOW.ROTATIONS is 3; use 1 or 4"),
        ("TEST.PROTOCOLS", "('papre',)", r"TEST.PROTOCOLS is \('papre',\); use one or more of paper, instance"),
        ("SOLVER.IMS_PER_BATCH", "0", "SOLVER.IMS_PER_BATCH is 0; use 1 to"),
        ("DATALOADER.TARGET_IMS_PER_BATCH", "0", "DATALOADER.TARGET_IMS_PER_BATCH is 0; use 1 to"),
        ("DATALOADER.NUM_WORKERS", "-1", "DATALOADER.NUM_WORKERS is -1; use 0 to"),
        ("SOLVER.CHECKPOINT_PERIOD", "0", "SOLVER.CHECKPOINT_PERIOD is 0; use 1 to"),
        ("TEST.EVAL_PERIOD", "-1", "TEST.EVAL_PERIOD is -1; use 0 to"),
        ("MODEL.CENTER_HEAD.NAME", "MyHead", "MODEL.CENTER_HEAD.NAME is 'MyHead'.*there are CenterPointHead.*To add"),
        ("MODEL.PROMPT_ENCODER.NAME", "Mine", "MODEL.PROMPT_ENCODER.NAME is 'Mine'.*there are .*PointPromptEncoder"),
        ("MODEL.BACKBONE.NAME", "mine", "MODEL.BACKBONE.NAME is 'mine'.*build_vit_backbone"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(
    first_words: Callable[..., str], key: str, value: str, expected: str
) -> None:
    line = first_words(key, value)
    assert re.search(expected, line), line


def test_a_best_metric_that_no_evaluation_yields(first_words: Callable[..., str]) -> None:
    line = first_words("DATASETS.VAL", "('synthetic_target_val',)", "TEST.BEST_METRIC", "Dice")
    assert "TEST.BEST_METRIC is 'Dice'" in line
    assert "paper/0%/Dice" in line


def test_a_physical_scale_needs_the_voxel_size_of_every_volume(
    first_words: Callable[..., str], synthetic_data: Path
) -> None:
    register_em_volume("unknown", synthetic_data / "synthetic" / "target" / "im")
    physical = "INPUT.SCALE", "1.0", "INPUT.PIXEL_SIZE"
    line = first_words(*physical, "16", "DATASETS.TARGET", "('unknown',)", "DATASETS.SPARSE_POINTS.RATIO", "0.0")
    assert "DATASETS.TARGET: unknown: its voxel size is not known" in line
    assert "`voxel_size` in its description" in line
    line = first_words(*physical, "4000")
    assert "DATASETS.TRAIN: synthetic_source_train: pixels of 8 x 8 nm would make 0.002 pixels" in line


def test_points_that_the_unsupervised_mode_would_ignore(first_words: Callable[..., str], synthetic_data: Path) -> None:
    points = "DATASETS.SPARSE_POINTS.FILE", "clicks.json", "DATASETS.SPARSE_POINTS.RATIO", "0"
    line = first_words(*points)
    assert "DATASETS.SPARSE_POINTS.FILE is 'clicks.json'" in line
    assert "DATASETS.SPARSE_POINTS.RATIO is 0.0" in line

    register_em_volume("clicked", synthetic_data / "synthetic" / "target" / "im", points=synthetic_data / "clicks.json")
    line = first_words("DATASETS.TARGET", "('clicked',)", "DATASETS.SPARSE_POINTS.RATIO", "0.0")
    assert "RATIO is 0.0" in line
    assert "clicks.json; remove RATIO to use them" in line


def test_an_evaluation_on_a_volume_without_labels(first_words: Callable[..., str], synthetic_data: Path) -> None:
    register_em_volume("unlabeled", synthetic_data / "synthetic" / "target" / "im")
    line = first_words("--eval-only", "DATASETS.TEST", "('unlabeled',)")
    assert "DATASETS.TEST: unlabeled has no labels" in line
