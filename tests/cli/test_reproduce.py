"""The tables of the paper: which runs they need, and what is made of the results. Nothing is trained here."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from prompt_das.cli import reproduce as reproduce_command
from prompt_das.cli.reproduce_tables import EFFECTS_SHOWN
from prompt_das.config.load import get_prompt_das_cfg
from prompt_das_cli import main

import pytest

# Dice of the folder's run without prompts; every prompt adds a little.
DICE = {"source": 60.0, "uda": 75.0, "wda": 84.0, "oracle": 90.0}
GAIN = {"0%": 0.0, "15%": 1.0, "50%": 2.0, "100%": 3.0}


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands of all trainings. Each writes the results that its test would write."""
    commands: list[list[str]] = []

    def run(command: list[str], **kwargs: Any) -> SimpleNamespace:
        commands.append(command)
        folder = Path(value_of(command, "OUTPUT_DIR"))
        if "--clicks" in command:
            write_clicks(folder / "inference" / "lucchi_test" / "clicks.json", Path(folder).parent.name)
            return SimpleNamespace(returncode=0)
        dice = DICE.get(folder.name, 70.0) + int(value_of(command, "SEED"))
        results: dict[str, dict[str, float]] = {}
        for ratio, gain in GAIN.items():
            for protocol, lost in (("paper", 0), ("instance", 5)):
                scores = {"Dice": dice + gain - lost, "AJI": dice - 20, "PQ": dice - 30}
                results[f"{protocol}/{ratio}"] = scores
            if gain:
                results[f"prompt response/{ratio}"] = {"paper": 10 * gain, "instance": 5 * gain}
        summary = folder / "inference" / "lucchi_test" / "summary.json"
        summary.parent.mkdir(parents=True)
        summary.write_text(json.dumps({"results": results}))
        return SimpleNamespace(returncode=0)

    # Of this module alone: matplotlib, too, starts a command, where it has not drawn before.
    monkeypatch.setattr(reproduce_command, "subprocess", SimpleNamespace(run=run, STDOUT=subprocess.STDOUT))
    return commands


def write_clicks(path: Path, seed: str) -> None:
    """Curves that rise by 10 with each click; the second seed is better by 2, and has no wrong object."""
    start = {"seed0": 50.0, "seed1": 52.0}[seed]
    curve = {str(number): {"Dice": start + 10 * number, "PQ": start / 2} for number in (0, 1, 2)}
    effects = dict.fromkeys(EFFECTS_SHOWN, 4.0) | {"gone %": 80.0 if seed == "seed0" else None}
    path.write_text(json.dumps({"curves": {"careful": curve, "sloppy": curve}, "effects": effects}))


def value_of(command: list[str], key: str) -> str:
    return command[command.index(key) + 1]


@pytest.fixture
def reproduce(tmp_path: Path) -> Callable:
    """Runs `prompt-das reproduce` on the pair vnc2lucchi -> its tables."""

    def run(*arguments: str) -> dict[str, list[dict[str, Any]]]:
        main(["reproduce", "--pair", "vnc2lucchi", "--output", str(tmp_path), *arguments])
        return json.loads((tmp_path / "results.json").read_text())["tables"]

    return run


def test_table_1_by_hand(reproduce: Callable, started: list[list[str]]) -> None:
    """The gap between Source and Supervised is 30 points of Dice: 75 closes half of it, 84 four fifths."""
    table = reproduce("--size", "quick")["Table 1/paper"]
    assert [(row["row"], row["Dice"], row["gap closed"], row["prompt response"]) for row in table] == [
        ("Source", 60, 0, None),
        ("Source+", 63, pytest.approx(10), 30),
        ("Prompt-DAS (0 %)", 75, pytest.approx(50), None),
        ("Prompt-DAS (0 %)+", 78, pytest.approx(60), 30),
        ("Prompt-DAS (15 %)", 84, pytest.approx(80), None),
        ("Prompt-DAS (15 %)+", 87, pytest.approx(90), 30),
        ("Supervised", 90, 100, None),
    ]
    assert [Path(value_of(command, "OUTPUT_DIR")).name for command in started] == ["source", "oracle", "uda", "wda"]


def test_seeds_are_averaged_and_their_range_is_printed(reproduce: Callable, started: list, tmp_path: Path) -> None:
    tables = reproduce("--size", "quick", "--seeds", "0", "2")
    source = tables["Table 1/instance"][0]
    assert (source["Dice"], source["Dice per seed"]) == (56, [55, 57])
    text = (tmp_path / "results.md").read_text()
    assert "protocol `paper`" in text
    assert "protocol `instance`" in text
    assert "| Source             | 61.0 ± 1.0 | 41.0 ± 1.0 | 31.0 ± 1.0 | 0 %" in text
    assert "--pair vnc2lucchi" in text
    assert "Seeds [0, 2]" in text


def test_adaptation_starts_from_the_source_model_of_its_own_seed(
    reproduce: Callable, started: list[list[str]], tmp_path: Path
) -> None:
    reproduce("--size", "quick", "--seeds", "0", "1")
    for command in started:
        run, seed = Path(value_of(command, "OUTPUT_DIR")).name, value_of(command, "SEED")
        assert Path(value_of(command, "--config-file")).parts[-2:] == ("quick", f"vnc2lucchi_{run}.yaml")
        assert "--resume" in command
        if run in ("uda", "wda"):
            assert value_of(command, "MODEL.WEIGHTS") == str(tmp_path / f"seed{seed}" / "source" / "model_final.pth")
        else:
            assert "MODEL.WEIGHTS" not in command


def test_however_many_train_at_a_time_each_comes_after_the_model_that_it_starts_from(
    reproduce: Callable, started: list[list[str]], tmp_path: Path
) -> None:
    reproduce("--size", "quick", "--parts", "--seeds", "0", "1", "--jobs", "7")
    begun = [value_of(command, "OUTPUT_DIR") for command in started]
    assert len(begun) == len(set(begun)) == 2 * (4 + 4 + 11)  # table 1, other sources, other adaptations
    for i, command in enumerate(started):
        if "MODEL.WEIGHTS" in command:
            assert str(Path(value_of(command, "MODEL.WEIGHTS")).parent) in begun[:i]


def test_the_paper_s_size_has_the_paper_s_windows(reproduce: Callable, started: list[list[str]]) -> None:
    reproduce("SOLVER.MAX_ITER", "7")
    for command in started:
        assert Path(value_of(command, "--config-file")).parent.name == "configs"
        assert (value_of(command, "TEST.WINDOW.STRIDE"), value_of(command, "TEST.WINDOW.ROTATIONS")) == ("128", "4")
        assert value_of(command, "SOLVER.MAX_ITER") == "7"


def test_the_quick_size_is_tested_in_four_rotations_as_well(reproduce: Callable, started: list[list[str]]) -> None:
    reproduce("--size", "quick")
    for command in started:
        assert value_of(command, "TEST.WINDOW.ROTATIONS") == "4"
        assert "TEST.WINDOW.STRIDE" not in command  # the config has one for its windows


def test_the_ablation_switches_components_on_one_after_the_other(reproduce: Callable, started: list[list[str]]) -> None:
    tables = reproduce("--size", "quick", "--ablation")
    switches = ("POINT_PSEUDO_LABELS", "MASK_PSEUDO_LABELS", "PROMPTS", "CONTRASTIVE")
    seen = {}
    for command in started:
        name = Path(value_of(command, "OUTPUT_DIR")).name
        if name.startswith("ablation"):
            seen[name] = [value_of(command, f"DOMAIN_ADAPT.USE_{switch}") == "True" for switch in switches]
    assert seen == {
        "ablation_points": [True, False, False, False],
        "ablation_masks": [False, True, False, False],
        "ablation_both": [True, True, False, False],
        "ablation_masks_prompts": [False, True, True, False],
    }
    assert len(tables["Table 2, ablation/paper"]) == 8
    assert len(started) == 4 + 5  # source, wda and oracle serve both tables


@pytest.mark.parametrize(
    ("size", "folder", "run", "with_it"),
    [("quick", "quick/", "contrastive_tokens", "True"), ("paper", "", "no_contrastive", "False")],
)
def test_the_contrastive_loss_is_the_last_component_whether_the_configs_have_it_or_not(
    reproduce: Callable, started: list[list[str]], size: str, folder: str, run: str, with_it: str
) -> None:
    table = reproduce("--size", size, "--ablation")["Table 2, ablation/paper"]
    rows = {row["row"]: row["run"] for row in table}
    pair = ("wda", run) if size == "quick" else (run, "wda")
    assert (rows["+ both, prompts"], rows["+ both, prompts, contrastive"]) == pair
    in_configs = get_prompt_das_cfg(f"{folder}vnc2lucchi_wda").DOMAIN_ADAPT.USE_CONTRASTIVE
    assert in_configs == (size == "paper")
    (command,) = [command for command in started if Path(value_of(command, "OUTPUT_DIR")).name == run]
    assert value_of(command, "DOMAIN_ADAPT.USE_CONTRASTIVE") == with_it


def test_table_3_needs_no_further_training(reproduce: Callable, started: list[list[str]]) -> None:
    table = reproduce("--size", "quick", "--prompts")["Table 3, prompts at test/paper"]
    assert [row["Dice"] for row in table] == [60, 84, 85, 86, 87, 90]
    assert len(started) == 4


def test_started_again_it_goes_on_where_it_was(reproduce: Callable, started: list[list[str]], tmp_path: Path) -> None:
    reproduce("--size", "quick")
    (tmp_path / "seed0" / "wda" / "result.json").unlink()
    (tmp_path / "seed0" / "wda" / "inference" / "lucchi_test" / "summary.json").unlink()
    (tmp_path / "seed0" / "wda" / "inference" / "lucchi_test").rmdir()
    started.clear()
    reproduce("--size", "quick")
    assert [Path(value_of(command, "OUTPUT_DIR")).name for command in started] == ["wda"]


def test_a_training_that_fails_is_named_with_its_log(
    reproduce: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: SimpleNamespace(returncode=3))
    with pytest.raises(SystemExit, match=r"seed 0, source: train ended with code 3; see .*source/stdout\.txt"):
        reproduce("--size", "quick")
    assert not (tmp_path / "results.json").exists()


def test_without_a_gap_there_is_no_ratio_of_it(
    reproduce: Callable, started: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was learned at all, in a trial run say: no reason to lose the table."""
    monkeypatch.setitem(DICE, "oracle", DICE["source"])
    assert reproduce("--size", "quick")["Table 1/paper"][2]["gap closed"] is None


def test_the_ablation_of_new_parts_starts_from_sources_of_the_same_network(
    reproduce: Callable, started: list[list[str]], tmp_path: Path
) -> None:
    tables = reproduce("--size", "quick", "--parts")
    starts = {}
    for command in started:
        if "MODEL.WEIGHTS" in command:
            starts[Path(value_of(command, "OUTPUT_DIR")).name] = Path(value_of(command, "MODEL.WEIGHTS")).parent.name
    assert starts == {
        "uda": "source",
        "wda": "source",
        "paper": "paper_source",
        "paper_peaks": "paper_source",
        "dense": "dense_source",
        "without_unprompted": "source",
        "without_peaks": "source",
        "fine": "fine_source",
        "dice": "dice_source",
        "uncertain_points": "source",
        "all_components": "source",
        "contrastive_tokens": "source",
        "contrastive_features": "source",
    }
    names = [Path(value_of(command, "OUTPUT_DIR")).name for command in started]
    assert all(names.index(source) < names.index(run) for run, source in starts.items())
    assert len(tables["What is not in the paper/paper"]) == 2 + 2 * 12


def test_clicks_are_averaged_over_seeds_and_drawn(
    reproduce: Callable, started: list[list[str]], tmp_path: Path
) -> None:
    reproduce("--size", "quick", "--clicks", "--seeds", "0", "1")
    clicked = [command for command in started if "--clicks" in command]
    assert [Path(value_of(command, "OUTPUT_DIR")).name for command in clicked] == sorted(["source", "uda", "wda"] * 2)
    assert all(Path(value_of(c, "--weights")).parent == Path(value_of(c, "OUTPUT_DIR")) for c in clicked)
    clicks = json.loads((tmp_path / "results.json").read_text())["clicks"]["15 % model"]
    assert clicks["curves"]["careful"]["2"] == {"Dice": 71, "PQ": 25.5}
    assert clicks["effects"]["gone %"] == 80
    assert (tmp_path / "clicks.png").read_bytes().startswith(b"\x89PNG")
    assert "### Clicks of a sloppy user" in (tmp_path / "results.md").read_text()
