"""Anomalies of the pseudo-labels: told once, with the setting to change."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import SimpleNamespace

from prompt_das.adaptation.monitor import PATIENCE, PseudoLabelMonitor
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
