"""`prompt-das convert`: weights for sharing are safetensors with the config inside; every command takes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prompt_das.checkpoint.checkpointer import PromptDASCheckpointer
from prompt_das.checkpoint.reference_weights import reference_shapes
from prompt_das.checkpoint.safe_load import read_checkpoint, read_metadata
from prompt_das.config.load import get_prompt_das_cfg
from prompt_das.modeling import PromptDAS
from prompt_das_cli import main

import pytest
import torch


@pytest.fixture
def run(tiny_cfg: Any, tmp_path: Path) -> Path:
    """A training checkpoint whose student is all ones and whose teacher is all twos, with its config beside it."""
    state = PromptDAS(tiny_cfg).state_dict()
    student = {name: torch.full_like(value, 1) for name, value in state.items()}
    teacher = {name: torch.full_like(value, 2) for name, value in state.items()}
    torch.save({"model": student, "teacher": teacher, "iteration": 7}, tmp_path / "model_final.pth")
    (tmp_path / "config.yaml").write_text(tiny_cfg.dump())
    return tmp_path / "model_final.pth"


@pytest.mark.parametrize(("flags", "value"), [([], 2), (["--student"], 1)])
def test_teacher_or_student_for_sharing(run: Path, tmp_path: Path, flags: list[str], value: int) -> None:
    out = tmp_path / "shared.safetensors"
    main(["convert", "--from", "training", *flags, str(run), str(out)])
    assert all((tensor == value).all() for tensor in read_checkpoint(out).values())


def test_the_config_is_in_the_metadata_and_is_enough_to_rebuild_the_network(run: Path, tmp_path: Path) -> None:
    out, config = tmp_path / "shared.safetensors", tmp_path / "from_metadata.yaml"
    main(["convert", "--from", "training", str(run), str(out)])
    config.write_text(read_metadata(out)["prompt_das.config"])
    model = PromptDAS(get_prompt_das_cfg(str(config)))
    PromptDASCheckpointer(model).load(str(out), checkpointables=[])
    assert all((parameter == 2).all() for parameter in model.parameters())


def test_the_authors_layout_becomes_the_paper_size_network(tmp_path: Path) -> None:
    state = {f"module.{name}": torch.zeros(shape) for name, shape in reference_shapes().items()}
    torch.save({"state_dict": state}, tmp_path / "R-H.pth")
    out = tmp_path / "r2h.safetensors"
    main(["convert", "--from", "reference", str(tmp_path / "R-H.pth"), str(out)])
    assert read_checkpoint(out)["backbone.vit.pos_embed"].shape == (1, 48 * 48, 384)


def test_what_does_not_fit_is_named(run: Path, tmp_path: Path) -> None:
    content = torch.load(run, weights_only=True)
    content["teacher"].pop("decoder.mask_token")
    torch.save(content, run)
    with pytest.raises(SystemExit, match=r"decoder\.mask_token"):
        main(["convert", "--from", "training", str(run), str(tmp_path / "x.safetensors")])
    assert not (tmp_path / "x.safetensors").exists()


def test_a_config_with_code_in_it_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    hostile = tmp_path / "hostile.yaml"
    hostile.write_text(f"OUTPUT_DIR: !!python/object/apply:os.mkdir ['{marker}']\n")
    with pytest.raises(Exception, match="python/object/apply"):
        get_prompt_das_cfg(str(hostile))
    assert not marker.exists()
