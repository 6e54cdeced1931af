"""The start of a run: its logs."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from prompt_das.engine.setup import setup_run

import pytest
from detectron2.config import CfgNode


@pytest.mark.usefixtures("quick_setup", "quiet_logging")
def test_logs_in_files_and_pipes_have_no_color_codes(
    tiny_cfg: CfgNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    setup_run(tiny_cfg, argparse.Namespace(config_file="quick/synthetic_wda"))
    for name in ("prompt_das", "detectron2", "fvcore"):
        logging.getLogger(name).warning("a warning, which a terminal shows in red")
    for text in (capsys.readouterr().out, (tmp_path / "log.txt").read_text()):
        assert text.count("a warning, which a terminal shows in red") == 3
        assert "MAX_ITER" in text  # the config, which Detectron2 highlights
        assert "\x1b" not in text
