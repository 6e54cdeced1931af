"""`prompt-das convert`: weights for sharing are safetensors with the config inside; every command takes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prompt_das.checkpoint.checkpointer import PromptDASCheckpointer
from prompt_das.checkpoint.reference_weights import reference_shapes
from prompt_das.checkpoint.safe_load import read_checkpoint, read_metadata
from prompt_das.config.load import get_prompt_das_cfg
from prompt_das.config.sharing import config_for_sharing
from prompt_das.config.validation import value_of
from prompt_das.inference.interactive.predictor import Predictor
from prompt_das.modeling import PromptDAS
from prompt_das_cli import main

import numpy as np
import pytest
import torch
from torch import nn


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


def test_the_student_is_taken_where_there_is_no_teacher(run: Path, tmp_path: Path) -> None:
    content = torch.load(run, weights_only=True)
    torch.save({"model": content["model"], "iteration": 7}, run)
    main(["convert", "--from", "training", str(run), str(tmp_path / "source.safetensors")])
    assert all((tensor == 1).all() for tensor in read_checkpoint(tmp_path / "source.safetensors").values())


def test_nothing_of_the_machine_is_in_a_shared_file(run: Path, tmp_path: Path, tiny_cfg: Any) -> None:
    """And what prediction depends on is."""
    tiny_cfg.OUTPUT_DIR = tiny_cfg.MODEL.WEIGHTS = "/home/me/secret"
    tiny_cfg.MODEL.VIT.WEIGHTS = tiny_cfg.DATASETS.SPARSE_POINTS.FILE = "/home/me/secret.pth"
    tiny_cfg.DATASETS.VOLUMES, tiny_cfg.DATASETS.TARGET = ("/home/me/secret.yaml",), ("secret_liver",)
    tiny_cfg.DOMAIN_ADAPT.ENABLED = True
    tiny_cfg.PLUGINS = ("/home/me/parts/my_parts.py", "package.module")
    tiny_cfg.TEST.WINDOW.STRIDE, tiny_cfg.INPUT.SCALE = 24, 0.5
    text = config_for_sharing(tiny_cfg)
    assert "/home" not in text
    assert "secret" not in text
    shared = get_prompt_das_cfg(text=text)
    assert shared.PLUGINS == ("my_parts.py", "package.module")
    for key in ("INPUT", "TEST", "DOMAIN_ADAPT.POINTS", "MODEL.DECODER", "MODEL.PRECISION", "VERSION"):
        assert value_of(shared, key) == value_of(tiny_cfg, key)
    assert shared.MODEL.DEVICE == "cuda"  # where there is one, wherever it was trained

    main(["convert", "--from", "training", str(run), str(tmp_path / "shared.safetensors")])
    inside = read_metadata(tmp_path / "shared.safetensors")["prompt_das.config"]
    assert str(tmp_path) not in inside
    assert "OUTPUT_DIR" not in inside
    assert "DATASETS" not in inside


def test_half_the_size_is_nearly_the_same_probability(tiny: list[str], tmp_path: Path, rng: Any) -> None:
    """With weights so large that the network depends on each of them; trained ones change less."""
    cfg = get_prompt_das_cfg(None, [*tiny, "MODEL.DECODER.MLP_DIM", "512"])
    torch.manual_seed(0)
    model = PromptDAS(cfg)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.4)
    torch.save({"model": model.state_dict(), "config": cfg.dump()}, tmp_path / "model_final.pth")
    for flags, name in (([], "full.safetensors"), (["--float16"], "half.safetensors")):
        main(["convert", "--from", "training", *flags, str(tmp_path / "model_final.pth"), str(tmp_path / name)])
    full, half = tmp_path / "full.safetensors", tmp_path / "half.safetensors"
    assert half.stat().st_size < 0.7 * full.stat().st_size
    image = rng.integers(0, 256, (40, 50), dtype=np.uint8)
    one, other = (Predictor(path).predict([(20, 10)], image=image).probability for path in (full, half))
    assert 0 < np.abs(one - other).max() < 0.02
    assert one.std() > 0.1


def test_weights_that_are_there_stay_there(run: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes(b"other weights")
    with pytest.raises(SystemExit, match="exists already; replace it with --overwrite"):
        main(["convert", "--from", "training", str(run), str(mine)])
    with pytest.raises(SystemExit, match="would be written over the input"):
        main(["convert", "--from", "training", "--overwrite", str(mine), str(mine)])
    assert mine.read_bytes() == b"other weights"
    main(["convert", "--from", "training", "--overwrite", str(run), str(mine)])
    assert all((tensor == 2).all() for tensor in read_checkpoint(mine).values())


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
