"""One run in one folder."""

from __future__ import annotations

import multiprocessing
import multiprocessing.synchronize
import os
from pathlib import Path

from prompt_das.engine import run_folder
from prompt_das.engine.run_folder import begin, changed_settings, keep_config, start

import pytest
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.catalog import Metadata


def begun(cfg: CfgNode) -> CfgNode:
    """What a run with ``cfg`` leaves in its folder; returns a copy of ``cfg``."""
    folder = Path(cfg.OUTPUT_DIR)
    (folder / "config.yaml").write_text(cfg.dump())
    (folder / "model_0000010.pth").touch()
    (folder / "metrics.json").write_text("{}\n")
    (folder / "sparse_points_x.json").touch()
    (folder / "notes.txt").touch()
    return cfg.clone()


def test_a_new_run_into_a_used_folder_is_refused(tiny_cfg: CfgNode) -> None:
    begin(tiny_cfg, resume=False)
    begun(tiny_cfg)
    with pytest.raises(ValueError, match=r"holds a run already .*--resume.*--overwrite"):
        begin(tiny_cfg, resume=False)


def test_an_empty_metrics_file_is_no_run(tiny_cfg: CfgNode, tmp_path: Path) -> None:
    """A run whose weights could not be read leaves one."""
    (tmp_path / "metrics.json").touch()
    begin(tiny_cfg, resume=False)


def test_overwrite_removes_what_a_run_leaves_when_the_next_one_starts(tiny_cfg: CfgNode, tmp_path: Path) -> None:
    begun(tiny_cfg)
    before = {path.name for path in tmp_path.iterdir()}
    begin(tiny_cfg, resume=False, overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == before | {run_folder.LOCK}

    tiny_cfg.SEED = 3
    with open(tmp_path / "metrics.json", "a") as writer:  # as the new run's writer, which is opened before
        start(tiny_cfg, overwrite=True)
        writer.write("new\n")
    assert {path.name for path in tmp_path.iterdir()} == {"config.yaml", "metrics.json", "notes.txt", run_folder.LOCK}
    assert (tmp_path / "metrics.json").read_text() == "new\n"
    assert "SEED: 3" in (tmp_path / "config.yaml").read_text()


def test_without_overwrite_a_start_removes_nothing(tiny_cfg: CfgNode, tmp_path: Path) -> None:
    begun(tiny_cfg)
    before = {path.name for path in tmp_path.iterdir()}
    start(tiny_cfg)
    assert {path.name for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("MODEL.WEIGHTS", "model_0000010.pth"),
        ("MODEL.VIT.WEIGHTS", "model_0000010.pth"),
        ("DATASETS.SPARSE_POINTS.FILE", "sparse_points_x.json"),
    ],
)
def test_overwrite_refuses_to_remove_a_file_that_the_config_names(
    tiny_cfg: CfgNode, tmp_path: Path, key: str, name: str
) -> None:
    begun(tiny_cfg)
    tiny_cfg.merge_from_list([key, str(tmp_path / "." / name)])
    with pytest.raises(ValueError, match=rf"{key} .*{name} belongs to the run .*--overwrite removes; set another"):
        begin(tiny_cfg, resume=False, overwrite=True)
    assert (tmp_path / name).exists()


def test_the_config_of_a_run_is_kept_and_that_of_an_evaluation_replaced(tiny_cfg: CfgNode, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    for text in ("of one evaluation\n", "of another\n"):
        with keep_config(tmp_path):
            config.write_text(text)
        assert config.read_text() == text
    begun(tiny_cfg)
    with keep_config(tmp_path):
        config.write_text("of an evaluation\n")
    assert config.read_text() == tiny_cfg.dump()


def test_resuming_with_other_settings_is_refused(tiny_cfg: CfgNode, caplog: pytest.LogCaptureFixture) -> None:
    cfg = begun(tiny_cfg)
    begin(cfg, resume=True)
    cfg.DATASETS.SPARSE_POINTS.RATIO, cfg.SEED = 0.5, 3
    with pytest.raises(ValueError, match=r"SPARSE_POINTS\.RATIO was 0\.15 and is 0\.5; SEED was 0 and is 3.*--allow-c"):
        begin(cfg, resume=True)
    begin(cfg, resume=True, allow_changes=True)
    assert "SEED was 0 and is 3" in caplog.text


@pytest.mark.parametrize("registered", [False, True])
def test_resuming_with_other_points_is_refused(
    tiny_cfg: CfgNode,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    registered: bool,
) -> None:
    """Points under DATASETS.SPARSE_POINTS.FILE, and points that are registered with their volume."""
    points = tmp_path / "clicks.json"
    points.write_text("[[0, 1, 2]]")
    monkeypatch.setitem(MetadataCatalog.data, "mine", Metadata(name="mine", points=str(points) if registered else None))
    tiny_cfg.DOMAIN_ADAPT.ENABLED, tiny_cfg.DATASETS.TARGET = True, ("mine",)
    tiny_cfg.DATASETS.SPARSE_POINTS.FILE = "" if registered else str(points)
    cfg = begun(tiny_cfg)
    start(cfg)
    begin(cfg, resume=True)
    points.write_text("[[0, 1, 3]]")
    with pytest.raises(ValueError, match=rf"the points of mine: {points} has another content\. Resume .*--allow"):
        begin(cfg, resume=True)
    begin(cfg, resume=True, allow_changes=True)
    assert f"{points} has another content" in caplog.text
    start(cfg)
    begin(cfg, resume=True)


def test_points_of_a_run_of_an_earlier_release_are_not_compared(tiny_cfg: CfgNode, tmp_path: Path) -> None:
    points = tmp_path / "clicks.json"
    points.touch()
    tiny_cfg.DOMAIN_ADAPT.ENABLED, tiny_cfg.DATASETS.TARGET = True, ("mine",)
    tiny_cfg.DATASETS.SPARSE_POINTS.FILE = str(points)
    begin(begun(tiny_cfg), resume=True)


def test_a_damaged_record_of_the_points_is_a_warning(
    tiny_cfg: CfgNode, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / run_folder.POINTS).write_text("{")
    begin(begun(tiny_cfg), resume=True)
    assert f"{run_folder.POINTS} is damaged" in caplog.text


def test_settings_that_change_no_weights_may_change(tiny_cfg: CfgNode) -> None:
    cfg = begun(tiny_cfg)
    cfg.DATALOADER.NUM_WORKERS, cfg.SOLVER.CHECKPOINT_PERIOD, cfg.DATASETS.TEST = 3, 7, ("x",)
    begin(cfg, resume=True)


def test_a_config_of_an_earlier_release_is_the_same_run(tiny_cfg: CfgNode) -> None:
    """There MODEL.WEIGHTS had set the burn-in to 0 and shortened the run when the config was loaded."""
    tiny_cfg.DOMAIN_ADAPT.ENABLED, tiny_cfg.MODEL.WEIGHTS = True, "source.pth"
    tiny_cfg.DOMAIN_ADAPT.BURN_IN_ITERS, tiny_cfg.SOLVER.MAX_ITER = 400, 1000
    earlier = tiny_cfg.clone()
    earlier.DOMAIN_ADAPT.BURN_IN_ITERS, earlier.SOLVER.MAX_ITER = 0, 600
    assert changed_settings(earlier, tiny_cfg) == []


def hold(folder: Path, locked: multiprocessing.synchronize.Event, done: multiprocessing.synchronize.Event) -> None:
    run_folder.lock(folder)
    locked.set()
    done.wait(60)


def test_a_second_run_in_the_same_folder_is_refused_while_the_first_one_lives(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    locked, done = context.Event(), context.Event()
    other = context.Process(target=hold, args=(tmp_path, locked, done))
    other.start()
    try:
        assert locked.wait(60)
        with pytest.raises(ValueError, match=rf"another training, process {other.pid}, is writing to OUTPUT_DIR"):
            run_folder.lock(tmp_path)
    finally:
        done.set()
        other.join()
    run_folder.lock(tmp_path)
    assert (tmp_path / run_folder.LOCK).read_text().strip() == str(os.getpid())
