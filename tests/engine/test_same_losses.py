"""A short seeded adaptation has the losses that it has always had: a change of them is a change of the method.

``RECORDED`` was made by this test's own run (``losses_of``) with the code before the trainer and the criterion were
rebuilt, on a CPU with one thread, torch 2.11, in float32; to record it anew after a deliberate change of the method,
print what ``losses_of`` returns. On the same machine the values are equal to the bit; other CPUs add in another order,
so a relative difference of 1 in 1000 is allowed after 8 iterations.
"""

from __future__ import annotations

from pathlib import Path

from prompt_das.engine.trainer import build_trainer

import pytest
from detectron2.config import CfgNode

pytestmark = pytest.mark.usefixtures("quiet_logging")
RECORDED: dict[str, dict[str, dict[int, float]]] = {
    "wda": {
        "loss_det_source": {
            0: 1.62916243,
            1: 1.3630991,
            2: 1.45782256,
            3: 1.27143764,
            4: 1.20317888,
            5: 1.12305415,
            6: 1.07682848,
            7: 1.15854192,
        },
        "loss_det_target": {4: 2.37623906, 5: 2.26834011, 6: 2.25244379, 7: 2.48345447},
        "loss_pcl": {4: 0, 5: 0, 6: 0, 7: 0.312026739},
        "loss_seg_source": {
            0: 0.687148571,
            1: 0.684482098,
            2: 0.687189579,
            3: 0.686788738,
            4: 0.679294229,
            5: 0.672455668,
            6: 0.678429961,
            7: 0.667090833,
        },
        "loss_seg_target": {4: 0.679739654, 5: 0.697913945, 6: 0.695109189, 7: 0.688500822},
    },
    "uda": {
        "loss_det_source": {
            0: 1.62916243,
            1: 1.3630991,
            2: 1.45782256,
            3: 1.27143764,
            4: 1.20317841,
            5: 1.12308526,
            6: 1.07823122,
            7: 1.16314769,
        },
        "loss_det_target": {4: 2.760463, 5: 2.76114488, 6: 2.84333992, 7: 2.72291374},
        "loss_pcl": {4: 0.61524868, 5: 0.620140433, 6: 0.621753991, 7: 0.623962402},
        "loss_seg_source": {
            0: 0.687148571,
            1: 0.684482098,
            2: 0.687189579,
            3: 0.686788738,
            4: 0.679294229,
            5: 0.672456264,
            6: 0.67832464,
            7: 0.667080998,
        },
        "loss_seg_target": {4: 0.681779444, 5: 0.696603775, 6: 0.693606973, 7: 0.6903615},
    },
}


@pytest.fixture(params=["wda", "uda"])
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


def losses_of(cfg: CfgNode, mode: str) -> dict[str, dict[int, float]]:
    """4 iterations of burn-in and 4 of adaptation -> for each loss its value by iteration."""
    cfg.DATASETS.TRAIN, cfg.DATASETS.TARGET = ("synthetic_source_train",), ("synthetic_target_train",)
    cfg.DATASETS.SPARSE_POINTS.RATIO = {"wda": 0.15, "uda": 0.0}[mode]
    cfg.DOMAIN_ADAPT.ENABLED, cfg.DOMAIN_ADAPT.BURN_IN_ITERS = True, 4
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR = 8, 1e-3
    run = build_trainer(cfg)
    run.resume_or_load(resume=False)
    run.train()
    histories = run.storage.histories()
    return {
        name: {int(iteration): value for value, iteration in histories[name].values()}
        for name in sorted(histories)
        if name.startswith("loss_")
    }


def test_losses_are_the_recorded_ones(tiny_cfg: CfgNode, synthetic_data: Path, mode: str) -> None:
    losses = losses_of(tiny_cfg, mode)
    assert losses.keys() == RECORDED[mode].keys()
    for name, by_iteration in RECORDED[mode].items():
        assert losses[name] == pytest.approx(by_iteration, rel=1e-3), name
