"""Damaged and hostile files through the doors that a user takes: an error that names the file, or the right result.

Each door runs in a process of its own with a limit of memory and time, and is watched: whoever starts a program or
opens a connection there has run what a file said. Allowed are ValueError and OSError with the file's folder in their
message, at tools an exit with such a message, and the result of the undamaged file. What a format cannot notice, such
as another digit in a text, may give another result, if it is one that the format allows; ``Door.certain`` names the
kinds of damage for which there is no such excuse.
"""

from __future__ import annotations

import logging
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from door import SEED, command
from watch import DOORS, Watch
from weight_doors import hostile_weights

import pytest
import torch


# One file of each damage and door in every run of the tests; the slow ones are those of `make test-faults`.
@pytest.mark.parametrize("count", [5, pytest.param(50, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", DOORS)
def test_damaged_and_hostile_files(
    name: str,
    count: int,
    tmp_path: Path,
    tiny: list[str],
    damages: dict[str, Callable],
    start_process: Callable[..., Any],
) -> None:
    door, rng, canary = DOORS[name], random.Random(f"{SEED} {name}"), tmp_path / "canary"
    whole = tmp_path / "whole"
    whole.mkdir()
    torch.manual_seed(SEED)
    targets = [path.relative_to(whole) for path in door.write(whole, tiny)]
    watch = Watch(name, whole, start_process)
    verdicts: list[tuple[str, str]] = []

    def look(label: str, target: Path, content: bytes, damage: str) -> None:
        case = tmp_path / f"case{len(verdicts)}"
        shutil.copytree(whole, case)
        (case / target).write_bytes(content)
        verdicts.append((f"{label} {target}", watch.ask(case, damage)))
        shutil.rmtree(case)

    for number in range(count):
        damage = list(damages)[number % len(damages)]
        target = rng.choice(targets)
        content = bytearray((whole / target).read_bytes())
        damages[damage](content, rng)
        look(f"{number}, {damage}", target, bytes(content), damage)
    for label, content in door.hostile(canary).items():
        look(label, targets[0], content, "hostile")
    watch.close()

    defects = [(label, verdict) for label, verdict in verdicts if verdict not in ("refused", "right", "allowed")]
    logging.getLogger(__name__).info("%s: %s", name, dict(Counter(verdict for _, verdict in verdicts)))
    assert not defects, "\n".join(f"{label}: {verdict}" for label, verdict in defects)
    assert not canary.exists()


@pytest.mark.parametrize("label", hostile_weights(Path("canary")))
def test_hostile_weights_are_none_of_the_authors(label: str, tmp_path: Path) -> None:
    path, canary = tmp_path / "R-H.pth", tmp_path / "canary"
    path.write_bytes(hostile_weights(canary)[label])
    with pytest.raises(ValueError, match=r"R-H\.pth|not the authors' network"):
        command("convert", "--from", "reference", str(path), str(tmp_path / "out.safetensors"))
    assert not canary.exists()
