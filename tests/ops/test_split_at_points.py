from __future__ import annotations

from prompt_das.ops.split_at_points import split_at_points

import numpy as np
import pytest


def mask_of(picture: str) -> np.ndarray:
    return np.array([[character != "." for character in line] for line in picture.split()])


def test_an_instance_is_cut_at_its_neck() -> None:
    """The neck is column 6, which is as near to one seed as to the other in steps."""
    mask = mask_of("""
        .............
        .#####.#####.
        .#####.#####.
        .###########.
        .#####.#####.
        .#####.#####.
        .............
    """)
    parts = split_at_points(mask, np.array([[1, 1], [5, 11]]))
    assert (parts[:, 1:6][mask[:, 1:6]] == 1).all()
    assert (parts[:, 7:12][mask[:, 7:12]] == 2).all()
    assert (parts[~mask] == 0).all()
    assert parts[3, 6] in (1, 2)


def test_the_order_of_the_points_is_the_order_of_the_parts() -> None:
    mask = np.ones((5, 20), bool)
    parts = split_at_points(mask, np.array([[2, 17], [2, 3]]))
    assert parts[2, 17] == 1
    assert parts[2, 3] == 2


def test_components_without_a_point_go_to_the_nearest_one() -> None:
    mask = mask_of("""
        ##.......##
        ...........
        ##.##.##.##
    """)
    parts = split_at_points(mask, np.array([[2, 3], [2, 7]]))
    np.testing.assert_array_equal(parts[0], [1, 1, 0, 0, 0, 0, 0, 0, 0, 2, 2])
    np.testing.assert_array_equal(parts[2], [1, 1, 0, 1, 1, 0, 2, 2, 0, 2, 2])


@pytest.mark.parametrize(("seeds", "says"), [([[0, 0], [1, 1]], "beside"), ([[1, 1], [1, 1]], "one pixel")])
def test_points_that_split_nothing_are_refused(seeds: list, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        split_at_points(mask_of("... .## ..."), np.array(seeds))
