"""Convert weights: the authors' checkpoints for use here, or a training checkpoint for sharing."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import prompt_das
from prompt_das.checkpoint.float16 import to_float16
from prompt_das.checkpoint.model_zoo import sha256_of
from prompt_das.checkpoint.reference_weights import convert_reference_state_dict
from prompt_das.checkpoint.safe_load import check_weights, export_weights, read_checkpoint
from prompt_das.checkpoint.state_dict import expected_of, require_matching_state
from prompt_das.config.find import CONFIGS
from prompt_das.config.load import get_prompt_das_cfg
from prompt_das.config.sharing import config_for_sharing
from prompt_das.modeling.load import build_on_meta_device, config_of_weights
from prompt_das.utils.output_paths import require_apart, require_nameable, require_replaceable

import torch

PAPER = CONFIGS / "paper" / "rat2human_wda.yaml"


def from_reference(
    content: dict[str, Any], config_file: str | None, source: Path, opts: Sequence[str]
) -> tuple[dict[str, torch.Tensor], str]:
    """The authors' state dict, bare or under a key of its own -> ours, and the config it belongs to."""
    for key in ("model", "state_dict"):
        if isinstance(content.get(key), dict):
            content = content[key]
    state = {name.removeprefix("module."): value for name, value in check_weights(content, source).items()}
    cfg = get_prompt_das_cfg(config_file or str(PAPER), ["MODEL.VIT.WEIGHTS", "", *opts])
    return convert_reference_state_dict(state, cfg.INPUT.CROP_SIZE // cfg.MODEL.VIT.PATCH_SIZE), config_for_sharing(cfg)


def from_training(
    content: dict[str, Any],
    config_file: str | None,
    source: Path,
    opts: Sequence[str],
    student: bool,
    plugins: Sequence[str],
) -> tuple[dict[str, torch.Tensor], str]:
    """A checkpoint of this project -> its teacher's or student's weights, and the config of the run.

    As in an evaluation the student is taken where there is no teacher.
    """
    key = "model" if student or "teacher" not in content else "teacher"
    if key not in content:
        raise ValueError(f"{source} is not a training checkpoint: it has no {key!r}, only {list(content)[:5]}")
    cfg = config_of_weights(source, config_file, opts, plugins)
    return check_weights(content[key], source), config_for_sharing(cfg)


def run(args: argparse.Namespace) -> None:
    if args.output.suffix != ".safetensors":
        raise ValueError(f"{args.output}: weights are written as .safetensors")
    require_apart([args.output], [args.input])
    require_replaceable(args.output, overwrite=args.overwrite)
    require_nameable(args.output)
    content = read_checkpoint(args.input)
    if args.kind == "reference":
        state, config = from_reference(content, args.config_file, args.input, args.opts)
    else:
        state, config = from_training(content, args.config_file, args.input, args.opts, args.student, args.plugin)
    check(state, config, args.input)
    if args.float16:
        state = to_float16(state)
    export_weights(args.output, state, config, **{"prompt_das.version": prompt_das.__version__})
    print(f"{args.output}: {sum(v.numel() for v in state.values()) / 1e6:.1f} M values in {len(state)} tensors")
    print(f"{args.output.stat().st_size / 1e6:.1f} MB, SHA-256 {sha256_of(args.output)}")


def check(state: dict[str, torch.Tensor], config: str, source: Path) -> None:
    """Raise ValueError unless the weights fit the network of their config, name by name."""
    network = build_on_meta_device(get_prompt_das_cfg(text=config))
    require_matching_state(state, expected_of(network.state_dict()), f"{source}: the weights do not fit their config.")
