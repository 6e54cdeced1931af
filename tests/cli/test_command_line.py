"""The command `prompt-das`: light until a command runs, and one line for whatever is wrong with its input."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

from prompt_das_cli import COMMANDS, build_parser, main

import pytest

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["predict", "--nonsense"], []])
def test_nothing_heavy_is_imported_before_a_command_runs(words: list[str]) -> None:
    """With torch, --help would take seconds."""
    code = f"""
import sys, prompt_das_cli
try:
    prompt_das_cli.main({words!r})
except SystemExit:
    print("loaded:", sorted({{"torch", "numpy", "detectron2", "prompt_das"}} & set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.endswith("loaded: []\n"), result.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_module_a_description_and_an_example(name: str) -> None:
    assert callable(importlib.import_module(f"prompt_das.cli.{name.replace('-', '_')}").run)
    assert f"prompt-das {name}" in (COMMANDS[name].__doc__ or "")


def test_what_is_wrong_is_one_line_and_exit_code_1() -> None:
    with pytest.raises(SystemExit, match=r"^error: .*nowhere\.yaml") as exit_:
        main(["train", "--config-file", "nowhere.yaml"])
    assert "\n" not in str(exit_.value.code)  # Python writes a text to stderr, and ends with 1


def test_detectron2_s_way_to_change_a_config() -> None:
    """All that stands behind the first key belongs to the config, also what begins with a minus."""
    args = build_parser().parse_args(
        ["train", "--resume", "--config-file", "x.yaml", "SEED", "-1", "SOLVER.BASE_LR", "-1e-3"]
    )
    assert args.opts == ["SEED", "-1", "SOLVER.BASE_LR", "-1e-3"]
    assert (args.resume, args.eval_only, args.num_gpus, args.dist_url) == (True, False, 1, "auto")


@pytest.mark.parametrize("path", sorted(TOOLS.glob("*.py")), ids=lambda path: path.stem)
def test_each_program_of_tools_is_a_command(path: Path) -> None:
    result = subprocess.run([sys.executable, path, "--help"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("usage: prompt-das ")
