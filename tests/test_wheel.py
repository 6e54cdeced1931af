"""What `pip install .` brings: package, configs and command, which work in any folder and without this checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
SOURCES = ("prompt_das", "prompt_das_cli.py", "configs", "pyproject.toml", "setup.py", "README.md", "LICENSE")
Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel; what the wheel depends on is lent by the environment of the tests."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:  # a copy: a build leaves files, and would find those of an older one
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / "source" / name, symlinks=True)
        else:
            (folder / "source").mkdir(exist_ok=True)
            shutil.copy(ROOT / name, folder / "source")
    pip = [sys.executable, "-m", "pip", "--quiet"]
    options = ["--no-index", "--no-deps"]
    subprocess.run(
        [*pip, "wheel", *options, "--no-build-isolation", "--wheel-dir", folder, folder / "source"], check=True
    )
    shutil.rmtree(folder / "source")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    subprocess.run([*pip, "--python", python, "install", *options, *folder.glob("*.whl")], check=True)
    (packages,) = (folder / "venv" / "lib").glob("*/site-packages")
    (packages / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")  # its own .pth files are not followed
    return folder / "venv" / "bin"


@pytest.fixture
def call(environment: Path, tmp_path: Path) -> Call:
    """Runs a program of the new environment, in a folder of its own."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [environment / program, *arguments]
        return subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True)

    return run


def test_it_is_the_wheel_that_is_tested(call: Call, environment: Path) -> None:
    result = call("python", "-c", "import prompt_das; print(prompt_das.__file__)")
    assert result.stdout.startswith(str(environment.parent)), result.stderr


def test_the_command_is_there(call: Call) -> None:
    result = call("prompt-das", "--help")
    assert result.returncode == 0, result.stderr
    assert "new-project" in result.stdout


def test_a_config_is_found_by_its_name(call: Call) -> None:
    """As far as a training gets without data and weights."""
    overrides = ["MODEL.VIT.WEIGHTS", "", "DATASETS.TEST", "('nobody_registered_this',)"]
    result = call("prompt-das", "train", "--config-file", "quick/vnc2lucchi_wda", "--eval-only", *overrides)
    assert result.returncode == 1
    assert "--eval-only needs weights" in result.stderr or "nobody_registered_this" in result.stderr


def test_the_commands_that_a_new_project_prints_work(call: Call, tmp_path: Path) -> None:
    volume = np.random.default_rng(0).integers(0, 256, (3, 64, 64), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "scan.tif", volume, photometric="minisblack")
    (tmp_path / "clicks.csv").write_text("z,y,x\n1,20,30\n")
    options = ["--volume", "scan.tif", "--points", "clicks.csv", "--base", "quick/synthetic_wda"]
    result = call("prompt-das", "new-project", "liver", *options)
    assert result.returncode == 0, result.stderr
    commands = [line.split() for line in result.stdout.splitlines() if line.startswith("  ")]
    assert [words[:2] for words in commands] == [["prompt-das", "visualize"], ["prompt-das", "train"]]
    pictures = call(*commands[0])
    assert pictures.returncode == 0, pictures.stderr
    assert list((tmp_path / "liver").rglob("*.png"))


def test_napari_finds_the_plugin(call: Call) -> None:
    code = """
import npe2
manager = npe2.PluginManager.instance()
manager.discover()
print(manager.get_manifest("prompt_das").display_name)
"""
    result = call("python", "-c", code)
    assert result.stdout == "Prompt-DAS\n", result.stderr
