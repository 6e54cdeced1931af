#!/usr/bin/env python
"""The whole method in five minutes: two synthetic EM domains, training, adaptation, evaluation, a table, a figure.

    make demo        (or: python tools/demo.py --output output/demo)

Nothing is random: every run on a machine gives the same numbers.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import prompt_das  # noqa: F401  (fills the registries)
from prompt_das.config.load import get_prompt_das_cfg
from prompt_das.data.build import build_test_loader
from prompt_das.engine.setup import setup_run
from prompt_das.engine.trainer import PromptDASTrainer
from prompt_das.utils.visualization import draw_overlay, save_image, tile

import cv2
import make_synthetic
import numpy as np
import torch
from detectron2.config import CfgNode
from tabulate import tabulate
from torch import nn

CONFIGS = Path(__file__).resolve().parent.parent / "configs" / "quick"
METRICS = ("Dice", "AJI", "PQ")
SHARES = ("0%", "15%", "100%")


def run(name: str, output: Path, overrides: list[str]) -> tuple[CfgNode, nn.Module, dict[str, Any]]:
    """Train a config of configs/quick -> config, the trained teacher, its results on the test slices."""
    overrides = [*overrides, "OUTPUT_DIR", str(output / name)]
    cfg = get_prompt_das_cfg(str(CONFIGS / f"synthetic_{name}.yaml"), overrides)
    setup_run(cfg, argparse.Namespace())
    trainer = PromptDASTrainer(cfg)
    trainer.resume_or_load(resume=False)
    results = trainer.train()
    return cfg, trainer.evaluated_model, results


@torch.no_grad()
def draw(cfg: CfgNode, source: nn.Module, adapted: nn.Module) -> np.ndarray:
    """The first test slice: image, truth, source model, adapted model without and with prompts."""
    batch = next(iter(build_test_loader(cfg, cfg.DATASETS.TEST[0])))
    before, after = (model.eval()(batch)[0]["sem_seg"] for model in (source, adapted))
    height, width = batch[0]["instances"].shape
    image = cv2.resize(batch[0]["image"][0].numpy(), (width, height))  # the network sees a smaller one
    prompts = batch[0]["prompts"]
    panels = {
        "Image": draw_overlay(image, scale=2),
        "Truth": draw_overlay(image, batch[0]["instances"], scale=2),
        "Source model": draw_overlay(image, before["0%"].numpy() > 0.5, scale=2),
        "Adapted, no prompts": draw_overlay(image, after["0%"].numpy() > 0.5, scale=2),
        "Adapted, 15 % prompts": draw_overlay(image, after["15%"].numpy() > 0.5, prompts["15%"], scale=2),
        "Adapted, all prompts": draw_overlay(image, after["100%"].numpy() > 0.5, prompts["100%"], scale=2),
    }
    return tile(list(panels.values()), list(panels), columns=3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("output/demo"))
    parser.add_argument("opts", nargs="*", help="overrides of the configs: KEY VALUE ...")
    args = parser.parse_args()

    data = args.output / "data"
    make_synthetic.main(["--output", str(data)])
    os.environ["DETECTRON2_DATASETS"] = str(data)
    _, source, before = run("source", args.output, args.opts)
    weights = ["MODEL.WEIGHTS", str(args.output / "source" / "model_final.pth")]
    cfg, adapted, after = run("wda", args.output, [*args.opts, *weights])

    results = {
        f"{model}, {share} prompts": {metric: round(scores[f"paper/{share}"][metric], 2) for metric in METRICS}
        for model, scores in (("source model", before), ("adapted, 15 % points", after))
        for share in SHARES
    }
    (args.output / "demo.json").write_text(json.dumps(results, indent=2) + "\n")
    save_image(args.output / "demo.png", draw(cfg, source, adapted))
    rows = [[name, *row.values()] for name, row in results.items()]
    print("\nSynthetic target domain, validation slices, protocol 'paper', in percent")
    print(tabulate(rows, ["", *METRICS], tablefmt="github", floatfmt=".1f"))
    print(f"\nThe same numbers: {args.output / 'demo.json'}\nA look at it:     {args.output / 'demo.png'}")


if __name__ == "__main__":
    main()
