"""Damaged and hostile files at every entry point: an error that names the file, or the right result.

Each entry point runs in a process of its own, with limits of memory and time and an audit hook: a program started or a
connection opened there is code of the file that ran. Allowed are ValueError and OSError with the file's folder in their
message, of a command an exit with such a message, and the result of the undamaged file. What a format cannot notice,
such as another digit in a text, may give another result, if it is one that the format allows; ``EntryPoint.certain``
names the kinds of damage for which there is no such excuse.
"""

from __future__ import annotations

import logging
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from entry_point import SEED, command
from runner import ENTRY_POINTS, Runner
from weight_entry_points import hostile_weights

import pytest
import torch

SLOW = pytest.mark.slow


# In every run of the tests one file of each damage and entry point, and every second of the hostile files, or every
# fourth where others read the same; the slow ones are those of `make test-faults`.
@pytest.mark.parametrize(("count", "every", "every_shared"), [(5, 2, 4), pytest.param(50, 1, 1, marks=SLOW)])
@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_damaged_and_hostile_files(
    name: str,
    count: int,
    every: int,
    every_shared: int,
    tmp_path: Path,
    tiny: list[str],
    damages: dict[str, Callable],
    start_process: Callable[..., Any],
) -> None:
    entry_point, rng, canary = ENTRY_POINTS[name], random.Random(f"{SEED} {name}"), tmp_path / "canary"
    whole = tmp_path / "whole"
    whole.mkdir()
    torch.manual_seed(SEED)
    targets = [path.relative_to(whole) for path in entry_point.write(whole, tiny)]
    runner = Runner(name, whole, start_process)
    results: list[tuple[str, str]] = []

    def run_case(label: str, target: Path, content: bytes, damage: str) -> None:
        case = tmp_path / f"case{len(results)}"
        shutil.copytree(whole, case)
        (case / target).write_bytes(content)
        results.append((f"{label} {target}", runner.run(case, damage)))
        shutil.rmtree(case)

    for number in range(count):
        damage = list(damages)[number % len(damages)]
        target = rng.choice(targets)
        content = bytearray((whole / target).read_bytes())
        damages[damage](content, rng)
        run_case(f"{number}, {damage}", target, bytes(content), damage)
    hostile = list(entry_point.hostile(canary).items())
    for label, content in hostile[:: every_shared if entry_point.read_elsewhere else every]:
        run_case(label, targets[0], content, "hostile")
    runner.close()

    defects = [(label, result) for label, result in results if result not in ("refused", "right", "allowed")]
    logging.getLogger(__name__).info("%s: %s", name, dict(Counter(result for _, result in results)))
    assert not defects, "\n".join(f"{label}: {result}" for label, result in defects)
    assert not canary.exists()


@pytest.mark.parametrize("label", hostile_weights(Path("canary")))
def test_hostile_weights_are_none_of_the_authors(label: str, tmp_path: Path) -> None:
    path, canary = tmp_path / "R-H.pth", tmp_path / "canary"
    path.write_bytes(hostile_weights(canary)[label])
    with pytest.raises(ValueError, match=r"R-H\.pth|not the authors' network"):
        command("convert", "--from", "reference", str(path), str(tmp_path / "out.safetensors"))
    assert not canary.exists()
