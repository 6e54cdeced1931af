"""Warns when the teacher has had nothing to say for long, or says the same of every pixel."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import takewhile
from typing import NamedTuple

from prompt_das.config.schedule import burn_in_iters

from detectron2.config import CfgNode
from detectron2.engine import HookBase

logger = logging.getLogger(__name__)

# Iterations in a row. A crop without any instance is common, two hundred batches of them are not.
PATIENCE = 200


class Anomaly(NamedTuple):
    """``metric``: what PseudoLabeler reports; ``advice``: the settings to change."""

    metric: str
    holds: Callable[[float], bool]
    advice: str


class PseudoLabelMonitor(HookBase):
    """Each anomaly is told once, when it has held for ``PATIENCE`` iterations in a row.

    Metrics arrive some iterations late and together, see :class:`~prompt_das.engine.hooks.metric_buffer.MetricBuffer`.
    """

    def __init__(self, cfg: CfgNode) -> None:
        node, burn_in = cfg.DOMAIN_ADAPT, burn_in_iters(cfg)
        grey = "And look at the target with `prompt-das visualize`: is its contrast the source's?"
        self.anomalies = [
            Anomaly(
                "pseudo/foreground",
                lambda share: share > 0.95,
                "the teacher calls more than 95 % of the pixels foreground, and the student learns it. Try a longer "
                f"DOMAIN_ADAPT.BURN_IN_ITERS (now {burn_in}), a lower SOLVER.BASE_LR "
                f"({cfg.SOLVER.BASE_LR:g}), or a higher DOMAIN_ADAPT.MASKS.PIXEL_CONFIDENCE "
                f"({node.MASKS.PIXEL_CONFIDENCE:g}). {grey}",
            )
        ]
        if node.USE_POINT_PSEUDO_LABELS:
            self.anomalies.append(
                Anomaly(
                    "pseudo/points",
                    lambda number: number == 0,
                    "the teacher has found no pseudo-point. Try a lower DOMAIN_ADAPT.POINTS.THRESHOLD "
                    f"(now {node.POINTS.THRESHOLD:g}) or a longer DOMAIN_ADAPT.BURN_IN_ITERS ({burn_in}). "
                    f"{grey}",
                )
            )
        if node.USE_MASK_PSEUDO_LABELS:
            self.anomalies.append(
                Anomaly(
                    "pseudo/confident_pixels",
                    lambda share: share == 0,
                    "no pixel of the teacher is confident enough to weigh anything, so the target's masks teach "
                    "nothing. Try a lower DOMAIN_ADAPT.MASKS.IMAGE_CONFIDENCE "
                    f"(now {node.MASKS.IMAGE_CONFIDENCE:g}) or a longer DOMAIN_ADAPT.BURN_IN_ITERS "
                    f"({burn_in}).",
                )
            )
        self.in_a_row = dict.fromkeys((a.metric for a in self.anomalies), 0)
        self.seen = dict.fromkeys(self.in_a_row, -1)  # the last iteration whose value was counted

    def before_train(self) -> None:
        self.seen = dict.fromkeys(self.seen, self.trainer.start_iter - 1)

    def after_step(self) -> None:
        histories = self.trainer.storage.histories()
        for anomaly in self.anomalies:
            if anomaly.metric not in histories:  # burn-in: the teacher is not asked
                continue
            entries, seen = histories[anomaly.metric].values(), self.seen[anomaly.metric]
            new = list(takewhile(lambda entry: entry[1] > seen, reversed(entries)))  # noqa: B023  (used at once)
            for value, iteration in reversed(new):
                self.count(anomaly, value)
                self.seen[anomaly.metric] = int(iteration)

    def count(self, anomaly: Anomaly, value: float) -> None:
        """From ``PATIENCE`` on it stands still, so that nothing is told twice."""
        count = self.in_a_row[anomaly.metric]
        if count < PATIENCE:
            self.in_a_row[anomaly.metric] = count + 1 if anomaly.holds(value) else 0
            if self.in_a_row[anomaly.metric] == PATIENCE:
                logger.warning("For %d iterations %s", PATIENCE, anomaly.advice)
