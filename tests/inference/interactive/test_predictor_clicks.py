"""Labels of clicks, how far a click reaches, and components of low confidence."""

from __future__ import annotations

from prompt_das.inference.interactive.predictor import Predictor
from prompt_das.inference.interactive.resize import Box
from prompt_das.ops.connected_components import connected_components
from prompt_das.ops.mask_rules import MaskRules

import numpy as np
import pytest
import torch
from predictor_harness import IMAGE, Calls, Make

# ---- labels


def test_a_negative_click_is_another_one_and_points_are_positive_by_default(following: Predictor) -> None:
    points = [[12.5, 20.5]]
    positive, negative, default = (following.predict(points, labels).probability for labels in ([1], [0], None))
    assert np.array_equal(positive, default)
    assert not np.array_equal(positive, negative)


def test_a_label_that_is_taken_back_leaves_nothing(following: Predictor) -> None:
    before = following.predict([[12.5, 20.5]], [1])
    following.predict([[12.5, 20.5], [30.5, 9.5]], [1, 0])
    after = following.predict([[12.5, 20.5]], [1])
    assert np.array_equal(before.probability, after.probability)
    assert after.labels.tolist() == [1]


def test_the_paper_s_network_leaves_negative_clicks_out(predictor: Predictor) -> None:
    assert not predictor.uses_negative_clicks
    nothing = predictor.predict([]).probability
    np.testing.assert_allclose(nothing, predictor.predict([[12.5, 20.5]], [0]).probability, atol=1e-5)


@pytest.mark.parametrize(
    ("labels", "message"), [([1, 0], "one label for each point"), ([2], "label 2 of a point; it is 1 .* or 0")]
)
def test_labels_that_make_no_sense_are_refused(predictor: Predictor, labels: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        predictor.predict([[12.5, 20.5]], labels)


# ---- clicks that reach no further than their object

LIMITED = "MODEL.PROMPT_ENCODER.NAME", "ClickPromptEncoder", "TEST.CLICK_REACH", "object"


@pytest.fixture
def limited(make: Make) -> Predictor:
    predictor = make(*LIMITED)
    predictor.set_image(IMAGE)
    return predictor


CLICKS = [[12.5, 20.5], [40.5, 9.5], [30.5, 50.5]], [1, 0, 1]


def test_a_limited_click_changes_its_object_alone(limited: Predictor, following: Predictor) -> None:
    """What the click changes of the mask is one connected component, or none."""
    automatic = limited.predict([]).mask
    unlimited = following.predict(*CLICKS).mask
    result = limited.predict(*CLICKS)
    objects = connected_components(automatic | unlimited)
    clicked = {objects[int(y), int(x)] for x, y in CLICKS[0]} - {0}
    inside = np.isin(objects, list(clicked))
    assert np.array_equal(result.mask, np.where(inside, unlimited, automatic))


def test_limited_clicks_depend_on_nothing_before_them(limited: Predictor, make: Make) -> None:
    first = limited.predict(*CLICKS)
    one = limited.predict(CLICKS[0][:1], CLICKS[1][:1])
    nothing = limited.predict([])
    again = limited.predict(*CLICKS)
    fresh = make(*LIMITED)
    fresh.set_image(IMAGE)
    assert np.array_equal(first.probability, again.probability)
    assert np.array_equal(nothing.probability, fresh.predict([]).probability)
    assert np.array_equal(one.probability, fresh.predict(CLICKS[0][:1], CLICKS[1][:1]).probability)


def test_the_box_of_a_limited_click_holds_all_that_changed(limited: Predictor) -> None:
    before = limited.predict([])
    for number in (1, 3, 2, 0):
        after = limited.predict(CLICKS[0][:number], CLICKS[1][:number])
        differs = before.probability != after.probability
        if after.changed is None:
            assert not differs.any()
        else:
            y0, x0, y1, x1 = after.changed
            differs[y0:y1, x0:x1] = False
            assert not differs.any()
        before = after


@pytest.mark.parametrize("region", [(40, 30, 60, 50), (0, 0, 10, 10), (100, 100, 120, 120)])
def test_clicks_in_a_known_part_are_those_of_the_same_slice_alone(make: Make, region: Box) -> None:
    """The part is where windows were predicted; a click beyond it belongs to nothing that is known."""
    predictor = make(*LIMITED, "TEST.MIN_CONFIDENCE", "0.6")
    clicks = np.column_stack(CLICKS).astype(np.float32)
    answer = predictor.predict(*CLICKS, image=IMAGE, region=region)
    maps = predictor._current.maps
    known = ~np.isnan(answer.probability)
    expected = MaskRules("object", 0.6)(maps._predicted, maps._automatic, clicks)
    assert np.array_equal(answer.probability, expected, equal_nan=True)
    rows, columns = np.nonzero(known)
    box = (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1) if known.any() else None
    assert answer.changed == box


def test_limited_clicks_are_those_of_a_whole_slice(limited: Predictor) -> None:
    clicks = np.column_stack(CLICKS).astype(np.float32)
    image = torch.from_numpy(np.asarray(IMAGE, np.float32))[None]
    whole = limited._model.predict_slice(image, {"a": clicks}, tuple(image.shape[1:]), with_density=True)
    np.testing.assert_allclose(whole["sem_seg"]["a"].numpy(), limited.predict(*CLICKS).probability, atol=1e-5)
    assert list(whole["density"]) == ["a"]


def test_a_limited_click_decodes_its_windows_alone(limited: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mask without clicks is in the cache."""
    limited.predict([])
    calls = Calls(limited, monkeypatch)
    limited.predict(CLICKS[0][:1])
    windows = sum(len(c) for c in limited._current.maps.clicks_per_window(np.array([[12.5, 20.5, 1]], np.float32)))
    assert calls.take() == (0, windows)


@pytest.mark.parametrize("reach", ["object", "image"])
def test_weak_components_are_background_in_the_predictor_as_in_a_whole_slice(make: Make, reach: str) -> None:
    options = ["MODEL.PROMPT_ENCODER.NAME", "ClickPromptEncoder", "TEST.CLICK_REACH", reach]
    every = make(*options)
    every.set_image(IMAGE)
    probability = every.predict([]).probability
    components = connected_components(probability > 0.5)
    highest = sorted(probability[components == i].max() for i in range(1, components.max() + 1))
    assert len(highest) > 1
    confidence = float(highest[len(highest) // 2]) - 1e-4  # half of them stay
    sure = make(*options, "TEST.MIN_CONFIDENCE", str(confidence))
    sure.set_image(IMAGE)
    kept = sure.predict([]).mask
    assert 0 < connected_components(kept).max() < components.max()
    assert not (kept & (components == 0)).any()
    image = torch.from_numpy(np.asarray(IMAGE, np.float32))[None]
    for number in (0, 3, 1):
        clicks = np.column_stack(CLICKS).astype(np.float32)[:number]
        whole = sure._model.predict_slice(image, {"a": clicks}, tuple(image.shape[1:]))
        after = sure.predict(CLICKS[0][:number], CLICKS[1][:number])
        np.testing.assert_allclose(whole["sem_seg"]["a"].numpy(), after.probability, atol=1e-5)
