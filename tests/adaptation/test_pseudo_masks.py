"""What confirms a component of a pseudo-mask."""

from __future__ import annotations

from prompt_das.adaptation.pseudo_masks import confirmed_components

import torch

# Bars of one row each: what is found on them, and whether they stay.
BARS = {3: ("both kinds", True), 5: ("the first", False), 7: ("the second", False), 9: ("a point", True)}


def test_a_component_needs_evidence_of_every_kind_or_a_point_or_the_border() -> None:
    mask = torch.zeros(2, 16, 16, dtype=torch.bool)
    mask[0, list(BARS), 2:9] = True
    mask[0, 12, 9:] = True  # ends at the border
    first, second = torch.zeros_like(mask), torch.zeros_like(mask)
    first[0, [3, 5], 3] = True
    second[0, [3, 7], 8] = True  # elsewhere on the bar
    first[1, 4, 4] = second[1, 4, 4] = True  # evidence beside a mask is none
    points = torch.tensor([[[4.5, 9.5], [4.5, 5.5]]] * 2)
    valid = torch.tensor([[True, False]] * 2)

    stays = confirmed_components(mask, [first, second], points, valid)
    for row, (what, expected) in BARS.items():
        assert stays[0, row, 2:9].tolist() == [expected] * 7, what
    assert stays[0, 12, 9:].all()
    assert not (stays & ~mask).any()
    assert confirmed_components(mask, [first], points, valid)[0, [3, 5, 7, 9], 4].tolist() == [True, True, False, True]
