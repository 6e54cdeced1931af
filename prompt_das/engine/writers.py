"""Writers of the metrics of a run: a line on the screen, JSON, TensorBoard."""

from __future__ import annotations

import logging
from pathlib import Path

from detectron2.utils.events import (
    CommonMetricPrinter,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
)

logger = logging.getLogger(__name__)

FORMATS = {"pseudo/confident_pixels": "confident pixels: {:.0%}", "pseudo/points": "pseudo points: {:.1f}"}


class PseudoLabelPrinter(EventWriter):
    """Logs a line on the pseudo-labels after that of Detectron2's CommonMetricPrinter; nothing during burn-in."""

    def __init__(self, window_size: int = 20) -> None:
        self.window_size = window_size

    def write(self) -> None:
        storage = get_event_storage()
        histories = storage.histories()
        parts = [text.format(histories[k].median(self.window_size)) for k, text in FORMATS.items() if k in histories]
        if parts:
            logger.info("iter: %d  %s", storage.iter, "  ".join(parts))


def build_writers(output_dir: str, max_iter: int) -> list[EventWriter]:
    """Losses, learning rate and ETA on the screen; everything to ``metrics.json`` and TensorBoard in ``output_dir``."""
    Path(output_dir).mkdir(parents=True, exist_ok=True)
    return [
        CommonMetricPrinter(max_iter),
        PseudoLabelPrinter(),
        JSONWriter(str(Path(output_dir) / "metrics.json")),
        TensorboardXWriter(output_dir),
    ]
