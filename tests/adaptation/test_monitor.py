"""Anomalies of the pseudo-labels: each is logged once, with the setting to change."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

from prompt_das.adaptation.monitor import PATIENCE, RECALL_WINDOW, PseudoLabelMonitor, SparseRecall
from prompt_das.engine.hooks.evaluation import RecallCheckpointer
from prompt_das.engine.trainer import build_trainer

import pytest
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage

GOOD = {"pseudo/points": 2.5, "pseudo/foreground": 0.07, "pseudo/confident_pixels": 0.8}


@pytest.fixture
def storage() -> Iterator[EventStorage]:
    with EventStorage() as storage:
        yield storage


def steps(watch: PseudoLabelMonitor, storage: EventStorage, number: int, **changes: float) -> None:
    """So many iterations in which the teacher says this."""
    for _ in range(number):
        storage.put_scalars(**(GOOD | {f"pseudo/{name}": value for name, value in changes.items()}))
        watch.trainer = SimpleNamespace(iter=storage.iter, storage=storage)
        watch.after_step()
        storage.step()


ANOMALIES = [
    ({"points": 0.0}, "DOMAIN_ADAPT.POINTS.THRESHOLD (now 0.05)"),
    ({"foreground": 0.99}, "DOMAIN_ADAPT.MASKS.PIXEL_CONFIDENCE (0.5)"),
    ({"confident_pixels": 0.0}, "DOMAIN_ADAPT.MASKS.IMAGE_CONFIDENCE (now 0.5)"),
]


@pytest.mark.parametrize(("anomaly", "setting"), ANOMALIES)
def test_what_holds_for_long_is_told_once(
    tiny_cfg: CfgNode, storage: EventStorage, caplog: pytest.LogCaptureFixture, anomaly: dict[str, float], setting: str
) -> None:
    watch = PseudoLabelMonitor(tiny_cfg)
    with caplog.at_level(logging.WARNING):
        steps(watch, storage, PATIENCE - 1, **anomaly)
        assert not caplog.records
        steps(watch, storage, 1, **anomaly)
        assert setting in caplog.text
        steps(watch, storage, 2 * PATIENCE, **anomaly)
        steps(watch, storage, 1)
        steps(watch, storage, 2 * PATIENCE, **anomaly)
    assert len(caplog.records) == 1


@pytest.mark.parametrize(("anomaly", "setting"), ANOMALIES)
def test_what_goes_away_is_not_told(
    tiny_cfg: CfgNode, storage: EventStorage, caplog: pytest.LogCaptureFixture, anomaly: dict[str, float], setting: str
) -> None:
    watch = PseudoLabelMonitor(tiny_cfg)
    for _ in range(2):
        steps(watch, storage, PATIENCE - 1, **anomaly)
        steps(watch, storage, 1)
    assert not caplog.records


def test_what_is_switched_off_is_not_missed(
    tiny_cfg: CfgNode, storage: EventStorage, caplog: pytest.LogCaptureFixture
) -> None:
    tiny_cfg.DOMAIN_ADAPT.USE_POINT_PSEUDO_LABELS = tiny_cfg.DOMAIN_ADAPT.USE_MASK_PSEUDO_LABELS = False
    steps(PseudoLabelMonitor(tiny_cfg), storage, 2 * PATIENCE, points=0.0, confident_pixels=0.0)
    assert not caplog.records


def test_burn_in_has_no_pseudo_labels(
    tiny_cfg: CfgNode, storage: EventStorage, caplog: pytest.LogCaptureFixture
) -> None:
    watch = PseudoLabelMonitor(tiny_cfg)
    for iteration in range(2 * PATIENCE):
        watch.trainer = SimpleNamespace(iter=iteration, storage=storage)
        watch.after_step()
    assert not caplog.records


@pytest.mark.parametrize("enabled", [True, False])
def test_every_adaptation_is_watched(tiny_cfg: CfgNode, enabled: bool) -> None:
    tiny_cfg.DOMAIN_ADAPT.ENABLED = enabled
    run = build_trainer(tiny_cfg)
    assert any(isinstance(hook, PseudoLabelMonitor) for hook in run._hooks) is enabled


# ---- recall on the sparse points


def recall_steps(monitor: PseudoLabelMonitor, storage: EventStorage, recall: float, number: int) -> None:
    steps(monitor, storage, number, sparse_recall=recall)


def test_a_recall_that_falls_is_warned_about_once(
    tiny_cfg: CfgNode, storage: EventStorage, caplog: pytest.LogCaptureFixture
) -> None:
    """The mean over 20 batches was 90 %; below 0.8 times that, 72 %, the adaptation may be collapsing."""
    monitor = PseudoLabelMonitor(tiny_cfg)
    with caplog.at_level(logging.WARNING):
        recall_steps(monitor, storage, 0.9, RECALL_WINDOW)
        recall_steps(monitor, storage, 0.75, RECALL_WINDOW)
        assert not caplog.records
        recall_steps(monitor, storage, 0.5, 2 * RECALL_WINDOW)
    (record,) = caplog.records
    assert "may be collapsing: 71 % of the sparse points" in record.getMessage()
    assert "it was 90 %" in record.getMessage()
    assert (monitor.recall.mean, monitor.recall.best) == pytest.approx((0.5, 0.9))


def test_a_short_fall_of_the_recall_is_noise(
    tiny_cfg: CfgNode, storage: EventStorage, caplog: pytest.LogCaptureFixture
) -> None:
    monitor = PseudoLabelMonitor(tiny_cfg)
    with caplog.at_level(logging.WARNING):
        recall_steps(monitor, storage, 0.9, RECALL_WINDOW)
        recall_steps(monitor, storage, 0.0, 3)
        recall_steps(monitor, storage, 0.9, RECALL_WINDOW)
    assert not caplog.records


def test_a_resumed_run_keeps_the_best_recall(tiny_cfg: CfgNode, storage: EventStorage) -> None:
    monitor, resumed = PseudoLabelMonitor(tiny_cfg), PseudoLabelMonitor(tiny_cfg)
    recall_steps(monitor, storage, 0.9, RECALL_WINDOW + 3)
    resumed.load_state_dict(monitor.state_dict())
    assert resumed.recall.state_dict() == monitor.recall.state_dict()


def test_the_best_recall_chooses_a_checkpoint(tiny_cfg: CfgNode) -> None:
    recall, saved = SparseRecall(), []
    checkpointer = SimpleNamespace(save=lambda name, iteration: saved.append((name, iteration)))
    hook = RecallCheckpointer(10, checkpointer, recall)
    for iteration, mean in ((9, 0.5), (15, 0.9), (19, 0.4), (29, 0.6)):  # iteration 15 is between two comparisons
        recall.last.extend([mean] * RECALL_WINDOW)
        hook.trainer = SimpleNamespace(iter=iteration, max_iter=100)
        hook.after_step()
    assert saved == [("model_best", 9), ("model_best", 29)]


@pytest.mark.parametrize("validated", [True, False])
def test_the_recall_decides_only_without_a_validation_set(
    tiny_cfg: CfgNode, synthetic_data: Path, validated: bool
) -> None:
    tiny_cfg.DOMAIN_ADAPT.ENABLED, tiny_cfg.DATASETS.VAL = True, ("synthetic_target_val",) if validated else ()
    run = build_trainer(tiny_cfg)
    assert any(isinstance(hook, RecallCheckpointer) for hook in run._hooks) is not validated
