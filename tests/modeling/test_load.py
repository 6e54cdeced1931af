"""From a file of weights to a network."""

from __future__ import annotations

from pathlib import Path

from prompt_das.adaptation.mean_teacher import make_teacher
from prompt_das.checkpoint.checkpointer import PromptDASCheckpointer
from prompt_das.checkpoint.safe_load import DamagedCheckpointError, export_weights
from prompt_das.modeling import PromptDAS
from prompt_das.modeling.load import load_model

import pytest
import torch
from detectron2.config import CfgNode
from torch import nn


@pytest.fixture
def run(tiny_cfg: CfgNode) -> Path:
    """The folder of a finished run: a checkpoint whose teacher is not its student, and the config."""
    tiny_cfg.DATASETS.VOLUMES = ("a volume of the machine that trained it",)
    folder = Path(tiny_cfg.OUTPUT_DIR)
    student = PromptDAS(tiny_cfg)
    teacher = make_teacher(student)
    for parameter in teacher.parameters():
        nn.init.constant_(parameter, 0.25)
    PromptDASCheckpointer(student, str(folder), teacher=teacher).save("model_final")  # as earlier releases wrote it
    PromptDASCheckpointer(student, str(folder), config=tiny_cfg.dump(), teacher=teacher).save("model_best")
    (folder / "config.yaml").write_text(tiny_cfg.dump())
    return folder


def is_teacher(model: PromptDAS) -> bool:
    return all(bool((parameter == 0.25).all()) for parameter in model.parameters())


def test_a_checkpoint_is_loaded_with_the_config_beside_it(run: Path) -> None:
    cfg, model = load_model(run / "model_final.pth")
    assert cfg.INPUT.CROP_SIZE == 32
    assert not model.training
    assert is_teacher(model)


def test_overrides_choose_the_student(run: Path) -> None:
    _, model = load_model(run / "model_final.pth", opts=["DOMAIN_ADAPT.TEACHER.EVALUATE", "False"])
    assert not is_teacher(model)


def test_a_shared_file_has_its_config_inside(run: Path, tmp_path: Path) -> None:
    state = torch.load(run / "model_final.pth", weights_only=True)["teacher"]
    file = tmp_path / "elsewhere" / "shared.safetensors"
    export_weights(file, state, (run / "config.yaml").read_text())
    cfg, model = load_model(file)
    assert cfg.MODEL.VIT.EMBED_DIM == 32
    assert is_teacher(model)


@pytest.fixture
def moved(run: Path, tmp_path: Path) -> Path:
    """A checkpoint without its folder."""
    file = tmp_path / "elsewhere" / "model.pth"
    file.parent.mkdir()
    return (run / "model_best.pth").rename(file)


def test_a_checkpoint_that_was_moved_has_its_config_inside(moved: Path) -> None:
    cfg, model = load_model(moved)
    assert cfg.MODEL.VIT.EMBED_DIM == 32
    assert cfg.DATASETS.VOLUMES == ()  # those of the training are not needed
    assert is_teacher(model)


def test_the_config_file_comes_before_the_config_inside_and_that_before_the_one_beside(moved: Path, run: Path) -> None:
    text = (run / "config.yaml").read_text()
    for name, stride in ("config.yaml", 8), ("named.yaml", 16):
        (moved.parent / name).write_text(text.replace("STRIDE: 32", f"STRIDE: {stride}"))
    assert load_model(moved)[0].TEST.WINDOW.STRIDE == 32
    assert load_model(moved, moved.parent / "named.yaml")[0].TEST.WINDOW.STRIDE == 16


def test_a_damaged_config_inside_is_damage(moved: Path) -> None:
    content = moved.read_bytes()
    moved.write_bytes(content.replace(b"CROP_SIZE: 32", b"CROP_SIZE: 64"))
    with pytest.raises(DamagedCheckpointError, match=r"checksum"):
        load_model(moved)


def test_a_config_inside_that_is_no_text_is_none(moved: Path) -> None:
    torch.save({**torch.load(moved, weights_only=True), "config": {"MODEL": 1}}, moved)
    with pytest.raises(FileNotFoundError, match="no config inside"):
        load_model(moved)


def test_what_is_missing_is_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no weights at .*nowhere\.pth"):
        load_model(run / "nowhere.pth")
    alone = tmp_path / "alone" / "model.pth"
    alone.parent.mkdir()
    alone.write_bytes((run / "model_final.pth").read_bytes())
    with pytest.raises(FileNotFoundError, match=r"no config inside, and there is no .*alone/config\.yaml"):
        load_model(alone)
    cfg, _ = load_model(alone, run / "config.yaml")
    assert cfg.INPUT.CROP_SIZE == 32


def test_weights_of_another_network_are_refused(run: Path) -> None:
    with pytest.raises(ValueError, match=r"do not fit the network of this config.*prompt_encoder"):
        load_model(run / "model_final.pth", opts=["MODEL.VIT.EMBED_DIM", "64"])


def test_a_config_that_was_cut_off_is_not_taken_for_one_with_defaults(run: Path) -> None:
    """Scale and stride, for example, would silently be others than in the training."""
    config = run / "config.yaml"
    content = config.read_text()
    config.write_text(content[: content.index("\nTEST:")])  # whole sections are lost: still valid YAML
    with pytest.raises(ValueError, match=r"config\.yaml is not the complete config of a run"):
        load_model(run / "model_final.pth")


def test_a_network_is_only_built_if_the_file_can_hold_it(run: Path) -> None:
    """Before any memory is taken: 200 GiB here."""
    huge = ["MODEL.VIT.EMBED_DIM", "8192", "MODEL.VIT.DEPTH", "64"]
    with pytest.raises(ValueError, match=r"model_final\.pth has \d+ bytes, too few for the \d{11} values"):
        load_model(run / "model_final.pth", opts=huge)


def test_a_name_that_is_not_registered_is_named_with_those_that_are(run: Path) -> None:
    with pytest.raises(
        ValueError, match=r"no network .*: MODEL\.CENTER_HEAD\.NAME is 'NoSuchHead'.*CenterPointHead.*--plugin"
    ):
        load_model(run / "model_final.pth", opts=["MODEL.CENTER_HEAD.NAME", "NoSuchHead"])


def test_a_config_that_no_network_can_be_built_from(run: Path) -> None:
    with pytest.raises(ValueError, match=r"no network can be built from this config: num_channels \(12\)"):
        load_model(run / "model_final.pth", opts=["MODEL.CENTER_HEAD.CHANNELS", "12"])  # no multiple of 8


# ---- plugins


@pytest.fixture
def victim(moved: Path, tiny_cfg: CfgNode) -> Path:
    """What a plugin beside a checkpoint would write; the config inside names it."""
    victim = moved.parent / "victim"
    plugin = moved.parent / "hostile_parts.py"
    plugin.write_text(f"import pathlib\npathlib.Path({str(victim)!r}).touch()\n")
    tiny_cfg.PLUGINS = (str(plugin),)
    torch.save({**torch.load(moved, weights_only=True), "config": tiny_cfg.dump()}, moved)
    return victim


def test_opening_weights_imports_no_code_that_their_config_names(moved: Path, victim: Path) -> None:
    with pytest.raises(ValueError, match=r"names the plugin '.*hostile_parts\.py'.*--plugin .*hostile_parts\.py"):
        load_model(moved)
    assert not victim.exists()


def test_nor_does_a_config_that_is_named_with_them(moved: Path, victim: Path, tiny_cfg: CfgNode) -> None:
    (moved.parent / "config.yaml").write_text(tiny_cfg.dump())
    with pytest.raises(ValueError, match="hostile_parts"):
        load_model(moved, moved.parent / "config.yaml")
    assert not victim.exists()


def test_a_plugin_that_the_caller_names_is_imported(moved: Path, victim: Path) -> None:
    plugin = victim.with_name("trusted_parts.py")
    victim.with_name("hostile_parts.py").rename(plugin)
    cfg, _ = load_model(moved, plugins=[plugin])
    assert victim.exists()
    assert (str(plugin),) == cfg.PLUGINS


def test_plugins_must_be_names(moved: Path, tiny_cfg: CfgNode) -> None:
    tiny_cfg.PLUGINS = (1, "my_parts.py")
    torch.save({**torch.load(moved, weights_only=True), "config": tiny_cfg.dump()}, moved)
    with pytest.raises(ValueError, match=r"PLUGINS is .*use a tuple of names"):
        load_model(moved)
