"""The whole method on two synthetic domains: data, training, adaptation, evaluation, a table, a figure."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from prompt_das.cli.make_synthetic import write_domain
from prompt_das.config.find import CONFIGS
from prompt_das.config.load import get_prompt_das_cfg
from prompt_das.data.build import build_test_loader
from prompt_das.engine.setup import setup_run
from prompt_das.engine.trainer import build_trainer
from prompt_das.ops.connected_components import FOREGROUND_THRESHOLD
from prompt_das.utils.visualization import draw_overlay, save_image, tile
from prompt_das.volumes.synthetic import STYLES

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from tabulate import tabulate
from torch import nn

METRICS = ("Dice", "AJI", "PQ")
RATIOS = ("0%", "15%", "100%")


def train(name: str, output: Path, overrides: list[str]) -> tuple[CfgNode, nn.Module, dict[str, Any]]:
    """Train a config of configs/quick -> config, the trained teacher, its results on the test slices."""
    overrides = [*overrides, "OUTPUT_DIR", str(output / name)]
    cfg = get_prompt_das_cfg(CONFIGS / "quick" / f"synthetic_{name}.yaml", overrides)
    setup_run(cfg, argparse.Namespace())
    trainer = build_trainer(cfg)
    trainer.resume_or_load(resume=False)
    results = trainer.train()
    return cfg, trainer.evaluated_model, results


@torch.no_grad()
def draw(cfg: CfgNode, source: nn.Module, adapted: nn.Module) -> np.ndarray:
    """The first test slice: image, truth, source model, adapted model without and with prompts."""
    batch = next(iter(build_test_loader(cfg, cfg.DATASETS.TEST[0])))
    results = (model.eval()(batch)[0]["sem_seg"] for model in (source, adapted))
    before, after = ({r: p.numpy() > FOREGROUND_THRESHOLD for r, p in result.items()} for result in results)
    height, width = batch[0]["instances"].shape
    image = cv2.resize(batch[0]["image"][0].numpy(), (width, height))  # the network sees a smaller one
    prompts = batch[0]["prompts"]
    panels = {
        "Image": draw_overlay(image, scale=2),
        "Truth": draw_overlay(image, batch[0]["instances"], scale=2),
        "Source model": draw_overlay(image, before["0%"], scale=2),
        "Adapted, no prompts": draw_overlay(image, after["0%"], scale=2),
        "Adapted, 15 % prompts": draw_overlay(image, after["15%"], prompts["15%"], scale=2),
        "Adapted, all prompts": draw_overlay(image, after["100%"], prompts["100%"], scale=2),
    }
    return tile(list(panels.values()), list(panels), columns=3)


def run(args: argparse.Namespace) -> None:
    data = args.output / "data"
    for style in STYLES:
        write_domain(data / "synthetic" / style, style)
    os.environ["DETECTRON2_DATASETS"] = str(data)
    _, source, before = train("source", args.output, args.opts)
    weights = ["MODEL.WEIGHTS", str(args.output / "source" / "model_final.pth")]
    cfg, adapted, after = train("wda", args.output, [*args.opts, *weights])

    results = {
        f"{model}, {ratio} prompts": {metric: round(scores[f"paper/{ratio}"][metric], 2) for metric in METRICS}
        for model, scores in (("source model", before), ("adapted, 15 % points", after))
        for ratio in RATIOS
    }
    (args.output / "demo.json").write_text(json.dumps(results, indent=2) + "\n")
    save_image(args.output / "demo.png", draw(cfg, source, adapted))
    rows = [[name, *row.values()] for name, row in results.items()]
    print("\nSynthetic target domain, validation slices, protocol 'paper', in percent")
    print(tabulate(rows, ["", *METRICS], tablefmt="github", floatfmt=".1f"))
    print(f"\nThe same numbers: {args.output / 'demo.json'}\nA look at it:     {args.output / 'demo.png'}")
