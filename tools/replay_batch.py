#!/usr/bin/env python
"""Do a training step that was left out again: which loss, and which layers, are not finite?

tools/replay_batch.py output/my_lab/bad_batches/iteration_0001234_rank0.pth
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import prompt_das  # noqa: F401  (fills the registries; must come before Detectron2)
from prompt_das.config.load import get_prompt_das_cfg
from prompt_das.engine.hooks.nonfinite_guard import replay
from prompt_das.modeling.meta_arch import PromptDAS


def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("batch", type=Path, help="a file of OUTPUT_DIR/bad_batches")
    parser.add_argument("--config-file", help="default: the config.yaml of its run")
    parser.add_argument("opts", nargs="*", help="overrides of the config, such as MODEL.PRECISION float32")
    parsed = parser.parse_args(args)
    config = parsed.config_file or parsed.batch.resolve().parents[1] / "config.yaml"
    own = ["MODEL.VIT.WEIGHTS", "", "MODEL.WEIGHTS", "", "DATASETS.VOLUMES", "()"]  # the weights are in the file
    try:
        cfg = get_prompt_das_cfg(str(config), [*own, *parsed.opts])
        names, losses, bad = replay(PromptDAS(cfg).to(cfg.MODEL.DEVICE), parsed.batch)
    except (ValueError, OSError, KeyError, RuntimeError) as error:
        raise SystemExit(f"{parser.prog}: {error}") from error
    print("\n".join(names))
    print("\n".join(f"{name:20} {value:.6g}" for name, value in losses.items()))
    print(f"gradients that are not finite: {', '.join(bad) or 'none'}")


if __name__ == "__main__":
    main()
