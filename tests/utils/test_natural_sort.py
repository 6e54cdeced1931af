"""Numbers in file names."""

from __future__ import annotations

from prompt_das.utils.natural_sort import natural_key, number_step

import pytest


def test_numbers_count_as_numbers() -> None:
    assert sorted(["im10.png", "Im2.png", "im1.png"], key=natural_key) == ["im1.png", "Im2.png", "im10.png"]


@pytest.mark.parametrize(
    ("names", "step"),
    [
        (["im0001.png", "im0002.png", "im0003.png"], 1),
        (["train005.png", "train010.png", "train020.png"], 5),
        (["s2_z10.tif", "s2_z12.tif"], 2),
        (["7", "3"], 4),
        (["a.png", "b.png"], 1),
        (["im5.png", "last.png"], 1),
        (["im5.png", "im5.png"], 1),
        (["im5.png"], 1),
        ([], 1),
    ],
)
def test_the_step_of_a_series(names: list[str], step: int) -> None:
    assert number_step(names) == step
