"""The authors' checkpoints load, and the network answers as theirs did.

The numbers to agree with lie beside the real data, in `reference/`: names and shapes, a recipe that fills them with
seeded noise, and what the authors' network answered. Tests that need them skip without.
"""

from __future__ import annotations

import json
import os
import runpy
from pathlib import Path
from typing import Any

from prompt_das.checkpoint.reference_weights import convert_reference_state_dict, reference_shapes
from prompt_das.config.load import get_prompt_das_cfg
from prompt_das.modeling import PromptDAS
from prompt_das.modeling.losses import contrastive_loss

import numpy as np
import pytest
import torch
from torch import Tensor

PAPER_SIZE = Path(__file__).parents[2] / "configs" / "paper" / "rat2human_wda.yaml"
SIZE = (384, 384)
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def reference() -> Path:
    folder = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).resolve().parent / "reference"
    if not (folder / "outputs.npz").exists():
        pytest.skip(f"no reference outputs in {folder}")
    return folder


@pytest.fixture(scope="module")
def recipe(reference: Path) -> dict[str, Any]:
    return runpy.run_path(str(reference / "recipe.py"))


@pytest.fixture(scope="module")
def theirs(reference: Path, recipe: dict[str, Any]) -> dict[str, Tensor]:
    keys = json.loads((reference / "keys.json").read_text())
    return {name: torch.from_numpy(value).float() for name, value in recipe["state_dict"](keys).items()}


def noise() -> dict[str, Tensor]:
    return {name: torch.zeros(shape) for name, shape in reference_shapes().items()}


def close(answer: Tensor, expected: np.ndarray, what: str) -> None:
    worst = float(np.abs(answer.numpy() - expected).max())
    assert worst < TOLERANCE, f"{what} is off by {worst}"


def test_names_and_shapes_are_those_of_the_published_network(reference: Path) -> None:
    keys = json.loads((reference / "keys.json").read_text())
    assert reference_shapes() == {name: tuple(shape) for name, shape in keys.items()}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda s: s.pop("mask_decoder.mask_tokens.weight"), "missing: mask_decoder.mask_tokens.weight"),
        (lambda s: s.update(surprise=torch.zeros(1)), "unexpected: surprise"),
        (
            lambda s: s.update({"pe_layer.positional_encoding_gaussian_matrix": torch.zeros(2, 5)}),
            r"pe_layer.*\(2, 5\)",
        ),
    ],
)
def test_names_that_do_not_fit_are_named(change: Any, complaint: str) -> None:
    state = noise()
    change(state)
    with pytest.raises(ValueError, match=complaint):
        convert_reference_state_dict(state)


def test_the_network_answers_as_theirs(reference: Path, recipe: dict[str, Any], theirs: dict[str, Tensor]) -> None:
    model = PromptDAS(get_prompt_das_cfg(str(PAPER_SIZE), ["MODEL.VIT.WEIGHTS", "", "MODEL.DEVICE", "cpu"])).eval()
    model.load_state_dict(convert_reference_state_dict(theirs))  # strict: every name of ours is there
    expected = np.load(reference / "outputs.npz")
    inputs = {name: torch.from_numpy(value) for name, value in recipe["inputs"]().items()}
    points, valid = inputs["points"] + 0.5, inputs["points"][..., 0] >= 0  # theirs are integers, padded with -1
    contrastive = inputs["contrast_points"] + 0.5

    with torch.no_grad():
        embedding = model.backbone(inputs["image"])["vit"]
        close(embedding.flatten(2).transpose(1, 2)[:, ::7], expected["encoder"], "encoder")

        none = model.decode(embedding, points[:, :0], valid[:, :0], SIZE, with_mask=False)
        close(none.density[:, ::2, ::2], expected["det_none"], "density without prompts")
        with_points = model.decode(
            embedding,
            points,
            valid,
            SIZE,
            contrastive_points=contrastive,
            contrastive_valid=torch.ones(contrastive.shape[:2], dtype=torch.bool),
        )
        close(with_points.density[:, ::2, ::2], expected["det_points"], "density with prompts")
        for name, p, v in (("none", points[:, :0], valid[:, :0]), ("points", points, valid)):
            out = model.decoder(embedding, model.prompt_encoder.grid((48, 48)), model.prompt_encoder(p, SIZE), v)
            probability = model.segmentation_head(out.mask_token, out.features).sigmoid()
            close(probability, expected[f"seg_{name}"], f"segmentation, prompts: {name}")

        groups = with_points.contrastive.split(inputs["contrast_counts"].tolist(), dim=1)
        for name, group in zip(("positive", "query", "negative"), groups, strict=True):
            close(group, expected[f"contrast_{name}"], f"{name} embeddings")
        loss = contrastive_loss(*[part for g in groups for part in (g, torch.ones(g.shape[:2], dtype=torch.bool))])
        close(loss, expected["contrast_loss"], "contrastive loss")
