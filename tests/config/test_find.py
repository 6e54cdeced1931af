"""Configs are found by their names, whatever the working directory."""

from __future__ import annotations

from pathlib import Path

from prompt_das.config.find import CONFIGS, config_names, find_config
from prompt_das.config.load import get_prompt_das_cfg

import pytest


def test_a_config_is_found_by_its_name_in_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    expected = CONFIGS / "quick" / "vnc2lucchi_wda.yaml"
    for name in ("quick/vnc2lucchi_wda", "quick/vnc2lucchi_wda.yaml", "configs/quick/vnc2lucchi_wda.yaml"):
        assert find_config(name) == expected
    (tmp_path / "mine.yaml").write_text("_BASE_: quick/vnc2lucchi_wda\nSEED: 7\n")
    cfg = get_prompt_das_cfg("mine.yaml")
    assert (cfg.SEED, cfg.INPUT.SCALE) == (7, 0.25)


def test_a_file_of_the_user_goes_before_one_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rat2human_wda.yaml").write_text("SEED: 7\n")
    assert find_config("rat2human_wda.yaml") == Path("rat2human_wda.yaml")


def test_a_name_that_no_config_has() -> None:
    assert "quick/vnc2lucchi_wda" in config_names()
    with pytest.raises(FileNotFoundError, match=r"neither a file nor .*; did you mean quick/vnc2lucchi_wda"):
        find_config("quick/vnc2luchi_wda")
