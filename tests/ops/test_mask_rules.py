"""The rules that follow the network are applied in their order, each only where it is asked for."""

from __future__ import annotations

from prompt_das.ops.mask_rules import MaskRules

import numpy as np
import pytest

# The first object is clicked; of the second the network is little sure, without the click a bit surer.
PROMPTED = np.full((20, 30), 0.1, np.float32)
PROMPTED[2:18, 2:18], PROMPTED[2:18, 22:28] = 0.9, 0.6
AUTOMATIC = np.full((20, 30), 0.2, np.float32)
AUTOMATIC[2:18, 22:28] = 0.7
CLICKS = np.array([[10, 10, 1]], np.float32)
NO_CLICKS = np.zeros((0, 3), np.float32)


def test_without_rules_nothing_changes() -> None:
    assert not MaskRules()
    assert MaskRules()(PROMPTED, None, CLICKS) is PROMPTED


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (MaskRules(min_confidence=0.65), [0.9, 0.5]),
        (MaskRules("object"), [0.9, 0.7]),
        (MaskRules("object", 0.65), [0.9, 0.7]),  # what holds where no click is, is judged by its own confidence
        (MaskRules("object", 0.8), [0.9, 0.5]),
    ],
)
def test_each_rule_does_its_own(rules: MaskRules, expected: list[float]) -> None:
    assert rules
    result = rules(PROMPTED, AUTOMATIC if rules.needs_automatic(CLICKS) else None, CLICKS)
    np.testing.assert_array_equal(result[10, [10, 25]], np.array(expected, np.float32))


def test_without_clicks_nothing_has_to_be_predicted_twice() -> None:
    assert not MaskRules("object").needs_automatic(NO_CLICKS)
    assert not MaskRules("image").needs_automatic(CLICKS)
    assert MaskRules("object").needs_automatic(CLICKS)
    assert MaskRules("object")(PROMPTED, None, NO_CLICKS) is PROMPTED
