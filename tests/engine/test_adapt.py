"""`prompt-das adapt`: from weights, a volume and clicks to better weights, or to the same ones, with advice."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import prompt_das.engine.adapt as module
from prompt_das.adaptation.held_out_clicks import split_clicks
from prompt_das.checkpoint.safe_load import export_weights, read_checkpoint, read_metadata
from prompt_das.cli.adapt import describe
from prompt_das.data.build import get_slices
from prompt_das.data.datasets import find_volume
from prompt_das.data.physical_scale import NetworkScale
from prompt_das.data.slices import read_labels
from prompt_das.engine import run_folder
from prompt_das.engine.adapt import adapt
from prompt_das.engine.adapt_schedule import FIRST, TIMED, StepTimes, fit_schedule, seconds_per_iteration
from prompt_das.engine.adapt_target import find_target, same_clicks
from prompt_das.engine.hooks.stopping import EXIT_RESUMABLE
from prompt_das.inference.interactive import Predictor
from prompt_das.inference.volume.source import VolumeSource
from prompt_das.modeling import PromptDAS
from prompt_das.ops.points import instance_centers
from prompt_das.volumes.point_files import read_clicks, write_points
from prompt_das_cli import main

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase

pytestmark = pytest.mark.usefixtures("quiet_logging", "forget_new_names")
VOLUME = "synthetic_target_train"
QUICK = ["SOLVER.MAX_ITER", "4"]


@pytest.fixture
def weights(tiny_cfg: CfgNode, tmp_path: Path) -> Path:
    export_weights(tmp_path / "start.safetensors", PromptDAS(tiny_cfg).state_dict(), tiny_cfg.dump())
    return tmp_path / "start.safetensors"


@pytest.fixture
def scaled(tiny_cfg: CfgNode, tmp_path: Path) -> Path:
    """Weights that take pixels of 16 nm, and objects of 10 of them."""
    tiny_cfg.INPUT.PIXEL_SIZE, tiny_cfg.INPUT.DIAMETER = 16.0, 10.0
    export_weights(tmp_path / "scaled.safetensors", PromptDAS(tiny_cfg).state_dict(), tiny_cfg.dump())
    return tmp_path / "scaled.safetensors"


@pytest.fixture
def clicks(synthetic_data: Path, tmp_path: Path) -> Path:
    """A click on the center of every mitochondrion of the volume, and two beside."""
    points = {}
    for dataset_dict in find_volume(VOLUME)[0]:
        centers = instance_centers(read_labels(dataset_dict))[1]
        points[dataset_dict["slice"]] = np.column_stack([centers, np.ones(len(centers))])
    points[0] = np.concatenate([points[0], [[1.5, 1.5, 0], [94.5, 1.5, 0]]])
    write_points(tmp_path / "clicks.json", points)
    return tmp_path / "clicks.json"


@pytest.fixture
def source(synthetic_data: Path, clicks: Path) -> VolumeSource:
    return VolumeSource(synthetic_data / "synthetic" / "target" / "im", points=clicks)


def state_of(path: Path) -> dict[str, Any]:
    content = read_checkpoint(path)
    return content.get("model", content)


def same(a: Path, b: Path) -> bool:
    first, second = state_of(a), state_of(b)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_adapted_weights_are_written_and_predict(
    weights: Path, source: VolumeSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TOLERANCE", 2)  # a tiny network forgets quickly
    done = adapt(weights, source, tmp_path / "mine.safetensors", opts=QUICK, progress=False)
    assert done.adapted
    assert done.iterations == 4
    assert done.before is not None
    assert done.after is not None
    assert not same(done.output, weights)
    assert not (tmp_path / "mine.safetensors.adapting").exists()
    predictor = Predictor(done.output)
    assert predictor.predict([[5, 5]], image=np.zeros((40, 40), np.uint8)).probability.shape == (40, 40)
    assert '"weights": "start.safetensors"' in read_metadata(done.output)["prompt_das.adaptation"]


def test_the_next_adaptation_begins_with_the_learning_rate_of_the_first(
    weights: Path, source: VolumeSource, tmp_path: Path, tiny_cfg: CfgNode
) -> None:
    """Else it would be a third of it each time."""
    opts = [*QUICK, "SOLVER.BASE_LR", "1e-7"]
    done = adapt(weights, source, tmp_path / "mine.pth", opts=opts, progress=False)
    assert Predictor(done.output).cfg.SOLVER.BASE_LR == tiny_cfg.SOLVER.BASE_LR


def test_a_training_that_makes_it_worse_leaves_the_weights_as_they_were(
    weights: Path,
    synthetic_data: Path,
    clicks: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    volume = str(synthetic_data / "synthetic" / "target" / "im")
    output = tmp_path / "mine.safetensors"
    command = ["adapt", "--weights", str(weights), "--input", volume, "--points", str(clicks), "--output", str(output)]
    scores = iter([0.5, 0.39, 0.3, 0.2, 0.1, 0.05])  # of the start, and then
    monkeypatch.setattr(module.HeldOutScore, "__call__", lambda score, model: next(scores))
    main([*command, *QUICK])
    assert same(output, weights)
    assert "the weights as they were, since the adapted ones are worse at these clicks" in capsys.readouterr().out


def test_without_points_the_network_makes_them_and_nothing_watches(
    weights: Path, synthetic_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    volume = str(synthetic_data / "synthetic" / "target" / "im")
    output = tmp_path / "mine.pth"
    command = ["adapt", "--weights", str(weights), "--input", volume, "--output", str(output)]
    main([*command, "--minutes", "0.01", "--source", "synthetic_source_train"])
    assert not same(output, weights)
    out = capsys.readouterr().out
    assert "no clicks watched the adaptation" in out
    assert "20 iterations" in out  # the fewest, whatever the budget


class Stop(HookBase):
    """Sends this process the signal of Ctrl-C."""

    def after_step(self) -> None:
        if self.trainer.iter == 1:
            os.kill(os.getpid(), signal.SIGINT)


class Crash(HookBase):
    """Ends the training between two checkpoints, as a power cut does."""

    def after_step(self) -> None:
        if self.trainer.iter == 2:
            raise RuntimeError("power cut")


@pytest.mark.parametrize(("points", "ends"), [(True, (Stop, Crash)), (False, (Stop,))])
def test_stopped_and_resumed_it_ends_with_the_same_weights(
    weights: Path,
    source: VolumeSource,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    points: bool,
    ends: tuple[type[HookBase], ...],
) -> None:
    monkeypatch.setattr(module, "TOLERANCE", 2)
    source = source if points else VolumeSource(source.volume)
    whole = adapt(weights, source, tmp_path / "whole.safetensors", opts=QUICK, progress=False)
    make_hooks = module.ClickWatch.__call__
    for end in ends:
        output = tmp_path / f"{end.__name__}.safetensors"
        with monkeypatch.context() as patch:
            patch.setattr(
                module.ClickWatch, "__call__", lambda self, trainer, end=end: [*make_hooks(self, trainer), end()]
            )
            with pytest.raises((SystemExit, RuntimeError), match=f"{EXIT_RESUMABLE}|power cut"):
                adapt(weights, source, output, opts=QUICK, progress=False)
        with pytest.raises(FileExistsError, match=r"go on with --resume"):
            adapt(weights, source, output, opts=QUICK, progress=False)
        parts = adapt(weights, source, output, resume=True, progress=False)
        assert same(parts.output, whole.output)
        assert read_metadata(parts.output) == read_metadata(whole.output)
        assert (parts.before, parts.after, parts.iterations) == (whole.before, whole.after, whole.iterations)


def test_other_clicks_are_not_resumed_with(
    weights: Path, source: VolumeSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.ClickWatch, "__call__", lambda self, trainer: [Stop()])
    with pytest.raises(SystemExit):
        adapt(weights, source, tmp_path / "mine.pth", opts=QUICK, progress=False)
    with pytest.raises(ValueError, match=r"is not what the adaptation in .* was begun with"):
        adapt(weights, source, tmp_path / "mine.pth", seed=1, resume=True, progress=False)


def stop(
    weights: Path, source: VolumeSource, output: Path, monkeypatch: pytest.MonkeyPatch, opts: list[str] = QUICK
) -> Path:
    """The folder of an adaptation that was stopped."""
    with monkeypatch.context() as patch:
        patch.setattr(module.ClickWatch, "__call__", lambda self, trainer: [Stop()])
        with pytest.raises(SystemExit):
            adapt(weights, source, output, opts=opts, progress=False)
    return output.with_name(f"{output.name}.adapting")


def test_other_weights_or_images_are_not_resumed_with(
    weights: Path, source: VolumeSource, tiny_cfg: CfgNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = shutil.copytree(source.volume, tmp_path / "images")
    source = VolumeSource(images, points=source.points)
    output = tmp_path / "mine.pth"
    folder = stop(weights, source, output, monkeypatch)
    before = weights.read_bytes()
    other = {name: value + 1 for name, value in PromptDAS(tiny_cfg).state_dict().items()}
    export_weights(weights, other, tiny_cfg.dump())
    error = error_of(lambda: adapt(weights, source, output, resume=True, progress=False))
    assert "begun with other weights or images (weights" in error
    weights.write_bytes(before)
    files = sorted(images.iterdir())
    shutil.copyfile(files[0], files[2])
    error = error_of(lambda: adapt(weights, source, output, resume=True, progress=False))
    assert f"begun with other weights or images (inputs: {files[2].name}" in error
    (folder / "inputs.json").write_text("{")
    assert "begin anew with --overwrite" in error_of(lambda: adapt(weights, source, output, resume=True))
    assert adapt(weights, source, output, overwrite=True, opts=QUICK, progress=False).output == output


@pytest.mark.parametrize("victim", ["weights", "points", "volume"])
def test_no_input_is_written_over(weights: Path, source: VolumeSource, tmp_path: Path, victim: str) -> None:
    clicks = tmp_path / "clicks.pth"
    shutil.copyfile(source.points, clicks)
    images = shutil.copytree(source.volume, tmp_path / "images")
    output = {"weights": weights, "points": clicks, "volume": images / "mine.pth"}[victim]
    source = VolumeSource(images, points=clicks)
    before = {path: path.read_bytes() for path in (weights, clicks)}
    error = error_of(lambda: adapt(weights, source, output, overwrite=True, opts=QUICK, progress=False))
    assert "would be written over the input" in error
    assert all(path.read_bytes() == content for path, content in before.items())
    assert not (images / "mine.pth.adapting").exists()


def test_the_folder_of_another_program_stays_as_it_is(weights: Path, source: VolumeSource, tmp_path: Path) -> None:
    foreign = tmp_path / "mine.pth.adapting"
    foreign.mkdir()
    for name in ("config.yaml", "model_mine.pth"):
        (foreign / name).write_text("mine")
    error = error_of(lambda: adapt(weights, source, tmp_path / "mine.pth", overwrite=True, opts=QUICK))
    assert "was not made by this program (it holds config.yaml)" in error
    assert sorted(path.name for path in foreign.iterdir()) == ["config.yaml", "model_mine.pth"]


def test_an_adaptation_at_work_is_not_joined_by_another(
    weights: Path, source: VolumeSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """POSIX locks are of a process, so the other one is one."""
    folder = stop(weights, source, tmp_path / "mine.pth", monkeypatch)
    run_folder._held.pop().close()
    program = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    command = [sys.executable, "-c", program, str(folder / run_folder.LOCK)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        for options in ({"resume": True}, {"overwrite": True}):
            error = error_of(lambda options=options: adapt(weights, source, tmp_path / "mine.pth", **options))
            assert "another training, process" in error
        other.communicate(b"\n")
    assert (folder / run_folder.CONFIG).is_file()


def error_of(call: Callable[[], Any]) -> str:
    with pytest.raises((ValueError, OSError)) as error:
        call()
    return str(error.value)


def test_too_few_clicks_are_refused_with_the_slices_to_click(
    weights: Path, source: VolumeSource, tmp_path: Path
) -> None:
    (tmp_path / "few.csv").write_text("z,y,x\n0,5,6\n0,9,9\n0,50,50\n")
    few = VolumeSource(source.volume, points=tmp_path / "few.csv")
    error = error_of(lambda: adapt(weights, few, tmp_path / "mine.pth"))
    assert "3 positive clicks" in error
    assert "click at least 2 more, e.g. on the slices 2, 3, 4" in error
    assert not (tmp_path / "mine.pth.adapting").exists()


def test_a_region_is_adapted_to_as_a_volume_of_its_own(
    weights: Path, source: VolumeSource, tiny_cfg: CfgNode, tmp_path: Path
) -> None:
    region = VolumeSource(source.volume, points=source.points, roi="1:6,16:96,:90")
    target, whole = (find_target(volume, tiny_cfg) for volume in (region, source))
    assert target.name != whole.name
    assert [(d["slice"], d["height"], d["width"]) for d in target.slices] == [(z, 80, 90) for z in range(1, 6)]
    assert target.clicks
    assert whole.clicks
    for z, clicks in target.clicks.items():
        inside = (whole.clicks[z][:, 1] >= 16) & (whole.clicks[z][:, 0] < 90)
        np.testing.assert_array_equal(clicks, whole.clicks[z][inside] - [0, 16, 0])
    assert adapt(weights, region, tmp_path / "mine.pth", opts=QUICK, progress=False).output.is_file()


def test_clicks_outside_are_refused_and_exchanged_axes_are_named(
    weights: Path, source: VolumeSource, tmp_path: Path
) -> None:
    rows = ["z,y,x", *(f"{5 * i},{5 + i % 2},{i % 6}" for i in range(12))]  # z and x are exchanged
    (tmp_path / "zx.csv").write_text("\n".join(rows))
    error = error_of(
        lambda: adapt(weights, VolumeSource(source.volume, points=tmp_path / "zx.csv"), tmp_path / "m.pth")
    )
    assert "10 of 12 clicks lie outside of the volume of 6 x 96 x 96 (z, y, x)" in error
    assert "the axes seem exchanged" in error
    (tmp_path / "far.csv").write_text("z,y,x\n" + "\n".join(f"{i},{500 + i},{700 + i}" for i in range(6)))
    error = error_of(
        lambda: adapt(weights, VolumeSource(source.volume, points=tmp_path / "far.csv"), tmp_path / "m.pth")
    )
    assert "the clicks of another volume" in error


def test_outputs_that_cannot_be_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    nothing = VolumeSource(tmp_path / "nothing")
    assert "as .safetensors or .pth" in error_of(lambda: adapt("none.pth", nothing, tmp_path / "mine.tif"))
    (tmp_path / "mine.pth").touch()
    assert "--overwrite" in error_of(lambda: adapt("none.pth", nothing, tmp_path / "mine.pth"))
    (tmp_path / "folder.pth").mkdir()
    error = error_of(lambda: adapt("none.pth", nothing, tmp_path / "folder.pth", overwrite=True))
    assert "folder.pth is a folder" in error
    for seed in (-1, 2**32):
        assert f"--seed is {seed}" in error_of(
            lambda seed=seed: adapt("none.pth", nothing, tmp_path / "a.pth", seed=seed)
        )
    elsewhere = ["OUTPUT_DIR", str(tmp_path / "a_run_of_mine")]
    assert "OUTPUT_DIR follows from --output" in error_of(
        lambda: adapt("none.pth", nothing, tmp_path / "a.pth", opts=elsewhere)
    )
    assert "--minutes is 0" in error_of(lambda: adapt("none.pth", nothing, tmp_path / "new.pth", minutes=0))


def test_names_that_cannot_be_written_are_refused_before_the_training(
    weights: Path, source: VolumeSource, tmp_path: Path
) -> None:
    long = tmp_path / f"{'x' * 240}.pth"
    assert "bytes too long" in error_of(lambda: adapt(weights, source, long, opts=QUICK))
    (tmp_path / "link.pth").symlink_to(tmp_path / "nowhere" / "mine.pth")
    assert "does not exist: remove it" in error_of(lambda: adapt(weights, source, tmp_path / "link.pth", opts=QUICK))


def test_a_folder_without_slices_is_refused(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty" in error_of(lambda: adapt(weights, VolumeSource(tmp_path / "empty"), tmp_path / "mine.pth"))


def test_held_out_clicks_are_not_trained_on(
    weights: Path, source: VolumeSource, clicks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = {}

    def train(cfg: CfgNode, watched: Any, *_: Any, **__: Any) -> tuple[float, None]:
        read["train"] = read_clicks(cfg.DATASETS.SPARSE_POINTS.FILE)
        read["windows"] = len(watched.score.windows)
        return 0.0, None

    monkeypatch.setattr(module, "train", train)
    adapt(weights, source, tmp_path / "mine.pth", opts=QUICK, progress=False)
    train_clicks, held_out = split_clicks(read_clicks(clicks), 0)
    assert same_clicks(read["train"], train_clicks)
    assert read["windows"] == sum(map(len, held_out.values()))


def test_a_diameter_gives_the_target_its_scale_and_leaves_that_of_the_source(
    scaled: Path, source: VolumeSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network knows objects of 10 pixels; those of 20 are shrunk to a half."""
    seen = {}

    def train(cfg: CfgNode, watched: Any, *_: Any, **__: Any) -> tuple[float, None]:
        seen.update(scale=NetworkScale.from_config(cfg), slice=get_slices(cfg.DATASETS.TARGET)[0])
        return 0.0, None

    monkeypatch.setattr(module, "train", train)
    volume = VolumeSource(source.volume, points=source.points, diameter=20)
    done = adapt(scaled, volume, tmp_path / "mine.pth", source="synthetic", opts=QUICK, progress=False)
    assert seen["scale"].of_slice(seen["slice"]) == 0.5
    assert seen["scale"].of_slice(get_slices(("synthetic",))[0]) == 20 / 16
    assert Predictor(done.output).cfg.INPUT.PIXEL_SIZE == 16


def test_the_student_is_not_taught_to_ignore_clicks(
    weights: Path, source: VolumeSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither teacher nor student is prompted with peaks: no target crop has a prompt without a consequence."""
    prompted: list[bool] = []
    losses = PromptDAS.losses

    def watch(network: PromptDAS, samples: Any) -> Any:
        prompted.extend(bool(sample["prompts_valid"].any()) for sample in samples if sample["domain"] == "target")
        return losses(network, samples)

    monkeypatch.setattr(PromptDAS, "losses", watch)
    adapt(weights, source, tmp_path / "mine.pth", opts=QUICK, progress=False)
    assert prompted
    assert not any(prompted)
    prompted.clear()
    own = [*QUICK, "DOMAIN_ADAPT.UNPROMPTED_PROBABILITY", "0.0"]
    adapt(weights, source, tmp_path / "own.pth", opts=own, progress=False)
    assert any(prompted)


def test_a_source_has_one_crop_in_a_batch_and_the_weights_keep_their_own_number(
    weights: Path, source: VolumeSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_cfg: CfgNode
) -> None:
    seen = []

    def train(cfg: CfgNode, *_: Any, **__: Any) -> tuple[float, None]:
        seen.append((cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.TARGET_IMS_PER_BATCH))
        return 0.0, None

    monkeypatch.setattr(module, "train", train)
    done = adapt(weights, source, tmp_path / "mine.pth", source="synthetic", opts=QUICK, progress=False)
    assert Predictor(done.output).cfg.SOLVER.IMS_PER_BATCH == tiny_cfg.SOLVER.IMS_PER_BATCH > 1
    own = [*QUICK, "SOLVER.IMS_PER_BATCH", "3"]
    adapt(weights, source, tmp_path / "own.pth", source="synthetic", opts=own, progress=False)
    assert seen == [(1, tiny_cfg.DATALOADER.TARGET_IMS_PER_BATCH), (3, tiny_cfg.DATALOADER.TARGET_IMS_PER_BATCH)]


def test_a_diameter_says_where_outlines_lie_and_the_result_keeps_it(
    scaled: Path, source: VolumeSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start that watches and the run have it as well; what a user sets is left alone."""
    seen = []

    def fit(model: PromptDAS, *_: Any) -> float:
        assert model.outline_logit == 0
        return 0.8

    def train(cfg: CfgNode, *_: Any, **__: Any) -> tuple[float, None]:
        seen.append(cfg.MODEL.SEM_SEG_HEAD.OUTLINE_PROBABILITY)
        return 0.0, None

    monkeypatch.setattr("prompt_das.engine.outline.fit_outline", fit)
    monkeypatch.setattr(module, "train", train)
    volume = VolumeSource(source.volume, points=source.points, diameter=10)
    done = adapt(scaled, volume, tmp_path / "mine.pth", opts=QUICK, progress=False)
    assert Predictor(done.output).cfg.MODEL.SEM_SEG_HEAD.OUTLINE_PROBABILITY == 0.8
    own = [*QUICK, "MODEL.SEM_SEG_HEAD.OUTLINE_PROBABILITY", "0.3"]
    adapt(scaled, volume, tmp_path / "own.pth", opts=own, progress=False)
    assert seen == [0.8, 0.3]


def test_how_sure_the_teacher_has_to_be_follows_from_the_clicks(
    weights: Path, source: VolumeSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of pseudo-labels alone, not of the result; without clicks, or where a user sets it, it is left alone."""
    seen = []

    def train(cfg: CfgNode, *_: Any, **__: Any) -> tuple[float, None]:
        seen.append(cfg.DOMAIN_ADAPT.MASKS.MIN_CONFIDENCE)
        return 0.0, None

    monkeypatch.setattr(module, "fit_confidence", lambda *_: 0.93)
    monkeypatch.setattr(module, "train", train)
    start = [*QUICK, "TEST.MIN_CONFIDENCE", "0.98"]
    done = adapt(weights, source, tmp_path / "mine.pth", opts=start, progress=False)
    assert Predictor(done.output).cfg.TEST.MIN_CONFIDENCE == Predictor(weights).cfg.TEST.MIN_CONFIDENCE
    adapt(weights, VolumeSource(source.volume), tmp_path / "none.pth", opts=start, progress=False)
    own = [*start, "DOMAIN_ADAPT.MASKS.MIN_CONFIDENCE", "0.5"]
    adapt(weights, source, tmp_path / "own.pth", opts=own, progress=False)
    assert seen == [0.93, 0.98, 0.5]


@pytest.mark.parametrize(("set_by_user", "expected"), [((), 0.93), (("TEST.MIN_CONFIDENCE", "0.99"), 0.985)])
def test_the_result_is_as_sure_as_leaves_as_many_objects(
    tiny_cfg: CfgNode,
    source: VolumeSource,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    set_by_user: tuple[str, ...],
    expected: float,
) -> None:
    """The start is looked at first, the adapted network then; the weights have their own if a user sets one."""
    tiny_cfg.TEST.MIN_CONFIDENCE = 0.985
    start = PromptDAS(tiny_cfg).eval()
    export_weights(tmp_path / "sure.safetensors", start.state_dict(), tiny_cfg.dump())
    adapted = {name: value + 1 for name, value in start.state_dict().items()}
    seen = []

    class Carried:
        def __init__(self, start: PromptDAS, *_: Any) -> None:
            seen.append({name: value.clone() for name, value in start.state_dict().items()})

        def __call__(self, network: PromptDAS) -> float:
            seen.append(network.state_dict())
            return 0.93

    monkeypatch.setattr(module, "CarriedConfidence", Carried)
    monkeypatch.setattr(module, "train", lambda *_, **__: (0.9, adapted))
    done = adapt(tmp_path / "sure.safetensors", source, tmp_path / "mine.pth", opts=[*QUICK, *set_by_user])
    assert expected == Predictor(done.output).cfg.TEST.MIN_CONFIDENCE
    assert ("found for this volume: TEST.MIN_CONFIDENCE 0.93" in describe(done)) == (not set_by_user)
    for state, of in zip(seen, [start.state_dict(), adapted], strict=False):
        assert all(torch.equal(state[name], of[name]) for name in of)
    assert len(seen) == (0 if set_by_user else 2)


def test_an_unknown_voxel_size_is_asked_for(tiny_cfg: CfgNode, source: VolumeSource, tmp_path: Path) -> None:
    tiny_cfg.INPUT.PIXEL_SIZE = 16.0
    export_weights(tmp_path / "scaled.safetensors", PromptDAS(tiny_cfg).state_dict(), tiny_cfg.dump())
    error = error_of(lambda: adapt(tmp_path / "scaled.safetensors", source, tmp_path / "mine.pth"))
    assert "give --voxel-size" in error


def test_the_schedule_fits_into_the_time() -> None:
    """600 s, a tenth in reserve, 0.5 s each: 1080 iterations; scores of 20 s: three of them fit into a tenth."""
    assert fit_schedule(600, 0.5, 20)[1::2] == ["1080", "54", "360", "360"]
    assert fit_schedule(600, 0.5, 0.1)[1::2] == ["1080", "54", "108", "108"]
    assert fit_schedule(-5, 0.5, 0.1)[1] == "20"


def test_iterations_are_timed_for_as_long_as_the_budget_allows(
    weights: Path, clicks: Path, tiny_cfg: CfgNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes half a second: 2.4 s are enough for 4 of them, fewer than there are at least, and 6 s for 12."""
    times: list[float] = []

    def take_half_a_second(self: StepTimes) -> None:
        times.append(len(times) / 2)
        self.times = times

    monkeypatch.setattr(StepTimes, "after_step", take_half_a_second)
    tiny_cfg.MODEL.WEIGHTS = str(weights)
    tiny_cfg.DATASETS.TRAIN, tiny_cfg.DATASETS.TARGET = (), (VOLUME,)
    tiny_cfg.DATASETS.SPARSE_POINTS.FILE, tiny_cfg.DATASETS.SPARSE_POINTS.RATIO = str(clicks), 1.0
    tiny_cfg.DOMAIN_ADAPT.ENABLED, tiny_cfg.DOMAIN_ADAPT.BURN_IN_ITERS = True, 0
    for budget, timed in ((2.4, TIMED), (6.0, 12)):
        times.clear()
        assert seconds_per_iteration(tiny_cfg, budget) == 0.5
        assert len(times) == FIRST + timed
