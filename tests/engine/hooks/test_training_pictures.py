"""Pictures of the training batch."""

from __future__ import annotations

from pathlib import Path

from prompt_das.engine.trainer import build_trainer

import pytest
from detectron2.config import CfgNode

pytestmark = pytest.mark.usefixtures("quiet_logging")


def test_a_picture_of_the_batch_is_stored_every_period(tiny_cfg: CfgNode, synthetic_data: Path) -> None:
    tiny_cfg.DATASETS.TRAIN, tiny_cfg.DATASETS.TARGET = ("synthetic_source_train",), ("synthetic_target_train",)
    tiny_cfg.DOMAIN_ADAPT.ENABLED = True
    tiny_cfg.SOLVER.MAX_ITER, tiny_cfg.VIS_PERIOD = 4, 3
    run = build_trainer(tiny_cfg)
    run.resume_or_load(resume=False)
    stored = []
    put_image = "detectron2.utils.events.EventStorage.put_image"
    with pytest.MonkeyPatch.context() as m:
        m.setattr(put_image, lambda storage, name, image: stored.append((name, storage.iter, image.shape)))
        run.train()
    assert [(name, iteration) for name, iteration, _ in stored] == [("training", 0), ("training", 3)]
    for _, _, (channels, height, width) in stored:
        assert channels == 3
        assert height >= 4 * 32  # a row for each crop: two of the source, two of the target
        assert width >= 5 * 32
