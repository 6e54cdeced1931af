"""Every example of docs/reference/extending.md trains as a plugin, keeps its name in the config, and predicts."""

from __future__ import annotations

import re
from pathlib import Path

from prompt_das.cli.train import run_process
from prompt_das.config import plugins
from prompt_das.config.load import get_prompt_das_cfg
from prompt_das.modeling.load import load_model
from prompt_das_cli import build_parser

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "reference" / "extending.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```\n\n```yaml\n(.*?)```", PAGE, re.DOTALL)
OPTIONS = {
    "SOLVER.MAX_ITER": 1,
    "DOMAIN_ADAPT.BURN_IN_ITERS": 0,
    "DATASETS.VAL": "()",
    "DATASETS.TEST": "()",
    "VIS_PERIOD": 0,
}


def test_there_is_one_for_each_registry() -> None:
    assert len(EXAMPLES) == PAGE.count("\n## ") == 5


@pytest.mark.usefixtures("quick_setup", "quiet_logging", "synthetic_data")
@pytest.mark.parametrize(("code", "config"), EXAMPLES, ids=re.findall(r"^class (\w+)", PAGE, re.MULTILINE))
def test_an_example_trains_and_predicts(
    code: str, config: str, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, leaf, output = tmp_path / "my_parts.py", tmp_path / "my_lab.yaml", tmp_path / "output"
    monkeypatch.setattr(plugins, "_imported", {})
    parts.write_text(code)
    leaf.write_text(f"_BASE_: {ROOT / 'configs' / 'quick' / 'synthetic_wda.yaml'}\n{config}")
    options = [*tiny, *(str(word) for pair in OPTIONS.items() for word in pair), "OUTPUT_DIR", str(output)]
    run_process(build_parser().parse_args(["train", "--config-file", str(leaf), "--plugin", str(parts), *options]))
    kept = get_prompt_das_cfg(output / "config.yaml").PLUGINS
    assert kept == (str(parts),)

    _, model = load_model(output / "model_final.pth")
    (part,) = re.findall(r"^class (\w+)", code, re.MULTILINE)
    assert part in {type(module).__name__ for module in model.modules()}
    maps = model.predict_slice(torch.zeros(1, 48, 40), {"a click": np.ones((1, 2), np.float32)}, (48, 40))
    assert maps["sem_seg"]["a click"].shape == (48, 40)
    assert maps["sem_seg"]["a click"].isfinite().all()

    monkeypatch.setattr(plugins, "_imported", {})  # as in a new process
    with pytest.raises(ValueError, match=rf"names the plugin .*--plugin {parts}"):
        load_model(output / "model_final.pth")
