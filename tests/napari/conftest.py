"""What tests of the plugin need: a tiny network on the disk and, for those that open a window, a virtual screen."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from prompt_das.checkpoint.safe_load import export_weights
from prompt_das.config.load import get_prompt_das_cfg
from prompt_das.inference.interactive.predictor import Predictor
from prompt_das.modeling import PromptDAS
from prompt_das.modeling.load import load_model

import numpy as np
import pytest
import tifffile
import torch

if TYPE_CHECKING:
    from plugin_harness import PluginHarness

SYSTEM_PACKAGES = "xvfb libegl1 libgl1 libgl1-mesa-dri libxkbcommon-x11-0 libxcb-cursor0 ...: see .ci/run"
OPEN_A_WINDOW = "from qtpy.QtWidgets import QApplication, QWidget; app = QApplication([]); QWidget().show()"


@pytest.fixture(scope="session", autouse=True)
def _own_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The tests neither see nor change the napari settings of whoever runs them."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("NAPARI_CONFIG", str(tmp_path_factory.mktemp("settings") / "settings.yaml"))
        yield


@pytest.fixture(scope="session")
def screen() -> Iterator[None]:
    """A screen to open windows on: a virtual one, if Xvfb is there. Tests that ask for it skip where there is none."""
    server = None
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.delenv("QT_QPA_PLATFORM", raising=False)
        if shutil.which("Xvfb"):
            out, into = os.pipe()
            options = ["-displayfd", str(into), "-screen", "0", "1400x1000x24", "-nolisten", "tcp"]
            server = subprocess.Popen(["Xvfb", *options], pass_fds=[into], stderr=subprocess.DEVNULL)
            os.close(into)
            with os.fdopen(out) as pipe:
                monkeypatch.setenv("DISPLAY", f":{pipe.readline().strip()}")
        elif not os.environ.get("DISPLAY"):
            pytest.skip(f"no screen and no Xvfb. Debian: apt install {SYSTEM_PACKAGES}")
        try:  # in another process: where a library is missing, Qt aborts
            trial = subprocess.run([sys.executable, "-c", OPEN_A_WINDOW], capture_output=True, text=True, timeout=60)
            if trial.returncode:
                pytest.skip(f"Qt opens no window. Debian: apt install {SYSTEM_PACKAGES}\n{trial.stderr}")
            yield
        finally:
            if server is not None:
                server.terminate()
                server.wait()


@pytest.fixture(scope="session")
def weights(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of weights with its config inside, whose answer hangs on its points more than an untrained one's."""
    return _write_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors", tiny)


@pytest.fixture(scope="session")
def weights_of_clicks(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for a network that knows negative clicks."""
    options = [*tiny, "MODEL.PROMPT_ENCODER.NAME", "ClickPromptEncoder"]
    return _write_weights(tmp_path_factory.mktemp("weights") / "clicks.safetensors", options)


@pytest.fixture(scope="session")
def weights_of_physical_scale(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for a network that takes pixels of 16 nm."""
    return _write_weights(
        tmp_path_factory.mktemp("weights") / "physical.safetensors", [*tiny, "INPUT.PIXEL_SIZE", "16"]
    )


def _write_weights(path: Path, options: list[str]) -> Path:
    cfg = get_prompt_das_cfg(None, [*options, "TEST.MIN_INSTANCE_SIZE", "3", "DOMAIN_ADAPT.POINTS.THRESHOLD", "0.0"])
    torch.manual_seed(0)
    model = PromptDAS(cfg)
    with torch.no_grad():
        for parameter in model.segmentation_head.parameters():
            parameter *= 3
    export_weights(path, model.state_dict(), cfg.dump())
    return path


@pytest.fixture
def by_hand(weights: Path) -> Predictor:
    """The Python API with the same weights, to compare with."""
    return Predictor.from_model(*load_model(weights))


@pytest.fixture
def clicks_by_hand(weights_of_clicks: Path) -> Predictor:
    return Predictor.from_model(*load_model(weights_of_clicks))


@pytest.fixture
def image() -> np.ndarray:
    """(4, 70, 60) uint8."""
    return np.random.default_rng(0).integers(0, 256, (4, 70, 60), dtype=np.uint8)


@pytest.fixture
def tiff(image: np.ndarray, tmp_path: Path) -> Path:
    tifffile.imwrite(tmp_path / "em.tif", image, photometric="minisblack")
    return tmp_path / "em.tif"


@pytest.fixture
def harness() -> Iterator[PluginHarness]:
    from plugin_harness import PluginHarness  # needs napari

    harness = PluginHarness()
    yield harness
    harness.controller.close()


@pytest.fixture
def ready(harness: PluginHarness, weights: Path) -> PluginHarness:
    """With weights open."""
    harness.controller.open_weights(weights)
    harness.work()
    return harness


@pytest.fixture
def ready_for_clicks(harness: PluginHarness, weights_of_clicks: Path) -> PluginHarness:
    """With weights open that know negative clicks."""
    harness.controller.open_weights(weights_of_clicks)
    harness.work()
    return harness
