"""The command line of whole-volume prediction."""

from __future__ import annotations

import csv
import errno
from pathlib import Path

from prompt_das.checkpoint.safe_load import export_weights
from prompt_das.cli.predict import explain
from prompt_das.modeling import PromptDAS
from prompt_das.volumes.ome_zarr import INSTANCES
from prompt_das.volumes.open_volume import open_volume
from prompt_das_cli import main

import numpy as np
import pytest
import tifffile
import zarr
from detectron2.config import CfgNode

pytestmark = pytest.mark.usefixtures("quiet_logging")


@pytest.fixture
def arguments(tiny_cfg: CfgNode, tmp_path: Path, rng: np.random.Generator) -> list[str]:
    """Weights, input and output."""
    export_weights(tmp_path / "tiny.safetensors", PromptDAS(tiny_cfg).state_dict(), tiny_cfg.dump())
    volume = rng.integers(0, 256, (3, 40, 50), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "scan.tif", volume, photometric="minisblack")
    given = {"weights": "tiny.safetensors", "input": "scan.tif", "output": "out.zarr"}
    return ["predict", *(word for key, name in given.items() for word in (f"--{key}", str(tmp_path / name)))]


def error_of(arguments: list[str]) -> str:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    error = str(exit_.value.code)  # written to stderr; the code is 1
    assert error.startswith("error: ")
    assert "\n" not in error
    return error


def test_from_weights_and_a_volume_to_instances(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*arguments, "--table", str(tmp_path / "table.csv"), "--min-size", "3"])
    labels = open_volume(tmp_path / "out.zarr", INSTANCES)
    count = max(int(labels.read(z).max()) for z in range(3))
    assert f"out.zarr: {count} instances" in capsys.readouterr().out
    with open(tmp_path / "table.csv") as file:
        assert len(list(csv.DictReader(file))) == count


def test_centers_without_their_density_are_refused(arguments: list[str]) -> None:
    assert "leave --no-density" in error_of([*arguments, "--instances-from", "centers", "--no-density"])


def test_options_reach_the_prediction(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "clicks.csv").write_text("z,y,x\n1,5,6\n")
    options = ["--instances", "slice", "--no-density", "--points", str(tmp_path / "clicks.csv"), "--device", "cpu"]
    options += ["--ome-version", "0.5", "--table", str(tmp_path / "table.parquet")]
    main([*arguments, *options, "TEST.WINDOW.STRIDE", "16"])
    attributes = zarr.open_group(str(tmp_path / "out.zarr"), mode="r").attrs["prompt_das"]
    assert attributes["instances"] == "slice"
    assert attributes["prompts"] == 1
    assert attributes["window"]["STRIDE"] == 16
    assert not (tmp_path / "out.zarr" / "density").exists()
    assert (tmp_path / "out.zarr" / "zarr.json").exists()
    assert (tmp_path / "table.parquet").read_bytes()[:4] == b"PAR1"


def test_a_region_is_named_in_the_end(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "ends outside of" in error_of([*arguments, "--roi", "0:4,:,:"])
    main([*arguments, "--roi", "1:,8:40,:"])
    assert f"instances in the region 1:3,8:40,0:50 (z,y,x) of {tmp_path / 'scan.tif'}" in capsys.readouterr().out
    assert open_volume(tmp_path / "out.zarr", INSTANCES).shape == (2, 32, 50)


def test_errors_are_one_line(arguments: list[str], tmp_path: Path) -> None:
    assert "no weights at nowhere.pth" in error_of([*arguments, "--weights", "nowhere.pth"])
    main(arguments)
    assert "--overwrite" in error_of(arguments)
    tifffile.imwrite(tmp_path / "scan.tif", np.zeros((3, 40, 50), np.uint8), photometric="minisblack")
    (tmp_path / "scan.tif").write_bytes((tmp_path / "scan.tif").read_bytes()[:3000])
    assert "scan.tif" in error_of([*arguments, "--overwrite"])


def test_what_was_skipped_is_said(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = np.zeros((3, 40, 50), np.float32)
    values[1, 2, 3] = np.inf
    tifffile.imwrite(tmp_path / "scan.tif", values, photometric="minisblack")
    main([*arguments, "--on-error", "skip", "--intensity-range", "0", "255"])
    out = capsys.readouterr().out
    assert "1 slices were skipped" in out
    assert "slice 1: 1 of 2000 pixels" in out


def test_the_error_for_a_full_disk_has_the_fix() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    assert "make room, and the same command goes on in out.zarr.part" in explain(full, Path("out.zarr"))
    assert explain(OSError(errno.EACCES, "Permission denied"), Path("o")) == "[Errno 13] Permission denied"


def test_stopped_by_the_user(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PromptDAS, "predict_slice", stop)
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
    assert exit_.value.code == 130
    assert "the same command goes on" in capsys.readouterr().err
    main(arguments)


def test_weights_by_their_name(arguments: list[str], tmp_path: Path, models_home: Path) -> None:
    (tmp_path / "tiny.safetensors").rename(models_home / "em-tiny.safetensors")
    arguments[arguments.index("--weights") + 1] = "em-tiny"
    main(arguments)
    attributes = zarr.open_group(str(tmp_path / "out.zarr"), mode="r").attrs["prompt_das"]
    assert attributes["weights"]["name"] == "em-tiny.safetensors"
    arguments[arguments.index("em-tiny")] = "em-tinny"
    assert "known models are" in error_of(arguments)


def test_a_diameter_says_where_outlines_lie_unless_the_user_does(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fit has a test of its own; here its answer reaches the prediction, and takes no place of a given one."""
    monkeypatch.setattr("prompt_das.engine.outline.fit_outline", lambda *_: 0.25)
    given = [*arguments, "--overwrite", "--diameter", "14.5", "INPUT.PIXEL_SIZE", "16"]

    def foreground(*words: str) -> np.ndarray:
        main([*given, *words])
        return zarr.open_group(str(tmp_path / "out.zarr"), mode="r")["probability/0"][:] > 127

    fitted = foreground()
    np.testing.assert_array_equal(fitted, foreground("MODEL.SEM_SEG_HEAD.OUTLINE_PROBABILITY", "0.25"))
    assert fitted.sum() > foreground("MODEL.SEM_SEG_HEAD.OUTLINE_PROBABILITY", "0.75").sum()


def test_a_voxel_size_or_a_diameter_decides_the_scale(arguments: list[str], tmp_path: Path) -> None:
    physical = ["INPUT.PIXEL_SIZE", "16"]
    assert "scan.tif: its voxel size is not known" in error_of([*arguments, *physical])
    assert "looks like µm" in error_of([*arguments, "--voxel-size", "0.03", "0.008", "0.008", *physical])
    for given in (["--diameter", "29"], ["--voxel-size", "30", "8", "8"]):
        main([*arguments, "--overwrite", *given, *physical])
        attributes = zarr.open_group(str(tmp_path / "out.zarr"), mode="r").attrs["prompt_das"]
        assert attributes["window"]["scale"] == 0.5
