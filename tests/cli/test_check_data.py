"""The command that checks data before a long run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from prompt_das_cli import main

import cv2
import numpy as np
import pytest


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Runs `prompt-das check-data` -> its exit code and what it said."""

    def run(*arguments: str) -> tuple[int, str]:
        error = None
        try:
            main(["check-data", *arguments])
        except SystemExit as exit_:
            error = exit_.code  # a text is written to stderr, and the code is 1
        return int(error is not None), f"{capsys.readouterr().out}{error or ''}"

    return run


def test_a_training_s_data_sets_each_once(check: Callable, synthetic_data: Path) -> None:
    config = Path(__file__).parents[2] / "configs" / "quick" / "synthetic_wda.yaml"
    code, said = check("--config-file", str(config))
    assert code == 0
    for name in ("synthetic_source_train", "synthetic_target_train", "synthetic_target_val"):
        assert said.count(f"\n{name}\n") == 1
    assert "no errors" in said


@pytest.mark.usefixtures("forget_new_names")
def test_errors_are_counted_and_end_with_1(check: Callable, tmp_path: Path, rng: np.random.Generator) -> None:
    (tmp_path / "scan").mkdir()
    for z in range(30):
        cv2.imwrite(str(tmp_path / "scan" / f"{z}.png"), rng.integers(0, 255, (40, 40), dtype=np.uint8))
    for z in range(1, 26):
        (tmp_path / "scan" / f"{z}.png").write_bytes(b"lost")
    (tmp_path / "lab.yaml").write_text("name: lab_of_test_check\nimages: scan\n")
    code, said = check("--volume", str(tmp_path / "lab.yaml"))
    assert code == 1
    assert "25 errors" in said
    assert said.count("ERROR") == 20
    assert "... and 5 more, see --all" in said
    assert check("--volume", str(tmp_path / "lab.yaml"), "--all")[1].count("ERROR") == 25


def test_nothing_to_check(check: Callable) -> None:
    assert check() == (1, "error: nothing to check: add --config-file, --dataset or --volume")
    code, said = check("--volume", "nowhere.yaml")
    assert code == 1
    assert "nowhere.yaml does not exist" in said
    assert "--points belong to one volume" in check("--dataset", "a", "b", "--points", "p.csv")[1]
