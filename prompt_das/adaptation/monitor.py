"""Monitoring of an adaptation without masks: useless pseudo-labels, and recall on the sparse points."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from itertools import takewhile
from typing import Any, NamedTuple

from prompt_das.config.schedule import burn_in_iters

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils.events import EventStorage
from fvcore.common.history_buffer import HistoryBuffer

logger = logging.getLogger(__name__)

# Consecutive iterations. A crop without any instance is common, two hundred batches of them are not.
PATIENCE = 200
RECALL = "pseudo/sparse_recall"
RECALL_WINDOW = 20  # values whose mean counts: a batch has few sparse points
RECALL_DROP = 0.8  # a mean below this fraction of the best one is warned about


class Anomaly(NamedTuple):
    """``metric``: one of PseudoLabeler's; ``advice``: the settings to change."""

    metric: str
    holds: Callable[[float], bool]
    advice: str


class PseudoLabelMonitor(HookBase):
    """Warns once of each anomaly that holds for ``PATIENCE`` consecutive iterations, and of a recall that falls.

    Metrics arrive some iterations late and together, see :class:`~prompt_das.engine.hooks.metric_buffer.MetricBuffer`.
    """

    def __init__(self, cfg: CfgNode) -> None:
        node, burn_in = cfg.DOMAIN_ADAPT, burn_in_iters(cfg)
        check = "Also draw the target with `prompt-das visualize`: is its contrast the source's?"
        self.anomalies = [
            Anomaly(
                "pseudo/foreground",
                lambda ratio: ratio > 0.95,
                "the teacher calls more than 95 % of the pixels foreground, and the student learns it. Try a longer "
                f"DOMAIN_ADAPT.BURN_IN_ITERS (now {burn_in}), a lower SOLVER.BASE_LR "
                f"({cfg.SOLVER.BASE_LR:g}), or a higher DOMAIN_ADAPT.MASKS.PIXEL_CONFIDENCE "
                f"({node.MASKS.PIXEL_CONFIDENCE:g}). {check}",
            )
        ]
        if node.USE_POINT_PSEUDO_LABELS:
            self.anomalies.append(
                Anomaly(
                    "pseudo/points",
                    lambda number: number == 0,
                    "the teacher has found no pseudo-point. Try a lower DOMAIN_ADAPT.POINTS.THRESHOLD "
                    f"(now {node.POINTS.THRESHOLD:g}) or a longer DOMAIN_ADAPT.BURN_IN_ITERS ({burn_in}). "
                    f"{check}",
                )
            )
        if node.USE_MASK_PSEUDO_LABELS:
            self.anomalies.append(
                Anomaly(
                    "pseudo/confident_pixels",
                    lambda ratio: ratio == 0,
                    "no pixel of the teacher is confident enough to weigh anything, so the target's masks teach "
                    "nothing. Try a lower DOMAIN_ADAPT.MASKS.IMAGE_CONFIDENCE "
                    f"(now {node.MASKS.IMAGE_CONFIDENCE:g}) or a longer DOMAIN_ADAPT.BURN_IN_ITERS "
                    f"({burn_in}).",
                )
            )
        self.consecutive = dict.fromkeys((a.metric for a in self.anomalies), 0)
        self.recall = SparseRecall()
        self.counted_until = dict.fromkeys(self.consecutive, -1)  # the last iteration whose value was counted

    def before_train(self) -> None:
        self.counted_until = dict.fromkeys(self.counted_until, self.trainer.start_iter - 1)

    def after_step(self) -> None:
        self.recall.update(self.trainer.storage)
        histories = self.trainer.storage.histories()
        for anomaly in self.anomalies:
            if anomaly.metric not in histories:  # in burn-in there are no pseudo-labels
                continue
            for value, iteration in values_after(self.counted_until[anomaly.metric], histories[anomaly.metric]):
                self.count(anomaly, value)
                self.counted_until[anomaly.metric] = iteration

    def state_dict(self) -> dict[str, Any]:
        if hasattr(self.trainer, "storage"):
            self.recall.update(self.trainer.storage)
        return self.recall.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.recall.load_state_dict(state)

    def count(self, anomaly: Anomaly, value: float) -> None:
        """Count an iteration. The count stays at ``PATIENCE`` once reached, so that each anomaly is logged once."""
        count = self.consecutive[anomaly.metric]
        if count < PATIENCE:
            self.consecutive[anomaly.metric] = count + 1 if anomaly.holds(value) else 0
            if self.consecutive[anomaly.metric] == PATIENCE:
                logger.warning("For %d iterations %s", PATIENCE, anomaly.advice)


def values_after(iteration: int, history: HistoryBuffer) -> list[tuple[float, int]]:
    """The (value, iteration) entries of a history that are later than ``iteration``, oldest first."""
    new = takewhile(lambda entry: entry[1] > iteration, reversed(history.values()))
    return [(value, int(i)) for value, i in reversed(list(new))]


class SparseRecall:
    """The mean of the last recalls on the sparse points, and the best mean so far; a fall is warned about once."""

    def __init__(self) -> None:
        self.last: deque[float] = deque(maxlen=RECALL_WINDOW)
        self.seen = -1
        self.best = 0.0
        self.warned = False

    @property
    def mean(self) -> float | None:
        """None until there are ``RECALL_WINDOW`` values."""
        return sum(self.last) / RECALL_WINDOW if len(self.last) == RECALL_WINDOW else None

    def update(self, storage: EventStorage) -> None:
        """Read the values that are new in ``storage``."""
        histories = storage.histories()
        if RECALL not in histories:
            return
        for value, iteration in values_after(self.seen, histories[RECALL]):
            self.last.append(value)
            self.seen = iteration
            mean = self.mean
            if mean is None:
                continue
            self.best = max(self.best, mean)
            if mean < RECALL_DROP * self.best and not self.warned:
                self.warned = True
                logger.warning(
                    "The adaptation may be collapsing: %.0f %% of the sparse points lie inside the teacher's masks, "
                    "and it was %.0f %% (without prompts, mean of %d batches). Check that the target's scale and "
                    "contrast are the source's (INPUT.PIXEL_SIZE or SCALE, `prompt-das visualize`), try a lower "
                    "SOLVER.BASE_LR, and use model_best.pth or model_source.pth instead of the last weights.",
                    *(100 * mean, 100 * self.best, RECALL_WINDOW),
                )

    def state_dict(self) -> dict[str, Any]:
        return {"last": list(self.last), "seen": self.seen, "best": self.best, "warned": self.warned}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.last = deque(state["last"], maxlen=RECALL_WINDOW)
        self.seen, self.best, self.warned = state["seen"], state["best"], state["warned"]
