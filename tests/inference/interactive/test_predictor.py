"""Click and see: the answer is the network's, at once, whatever was clicked before, and the newest question wins."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from prompt_das.checkpoint.safe_load import export_weights
from prompt_das.inference.interactive.newest_call import Superseded
from prompt_das.inference.interactive.predictor import Predictor
from prompt_das.inference.interactive.resize import Box
from prompt_das.inference.interactive.segmentation import Segmentation
from prompt_das.modeling import PromptDAS
from prompt_das.ops.connected_components import connected_components, remove_small, semantic_to_instances
from prompt_das.ops.points import find_peaks
from prompt_das.ops.sliding_window import sliding_window
from prompt_das.ops.split_instances import split_at_centers
from prompt_das.volumes.resize import resize_image

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from hypothesis import given, settings
from hypothesis import strategies as st

HEIGHT, WIDTH = 70, 60
NONE = np.zeros((0, 2), np.float32)
POINTS = np.array([[8.5, 9.5], [40.5, 20.5], [50.2, 66.1]], np.float32)

Make = Callable[..., Predictor]


def gray(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


IMAGE = gray(0)


def tiny_predictor(tiny: list[str], *opts: str, cache_bytes: int = 1 << 30) -> Predictor:
    """Windows of 32 px every 20 px, and a network whose answer hangs on its points more than an untrained one's."""
    from prompt_das.config.load import get_prompt_das_cfg

    cfg = get_prompt_das_cfg(None, [*tiny, "TEST.WINDOW.STRIDE", "20", "TEST.MIN_INSTANCE_SIZE", "3", *opts])
    torch.manual_seed(0)
    model = PromptDAS(cfg)
    with torch.no_grad():
        for parameter in model.segmentation_head.parameters():
            parameter *= 3
    return Predictor.from_model(cfg, model, cache_bytes=cache_bytes)


@pytest.fixture
def make(tiny: list[str]) -> Make:
    return lambda *opts, **kwargs: tiny_predictor(tiny, *opts, **kwargs)


@pytest.fixture
def predictor(make: Make) -> Predictor:
    predictor = make()
    predictor.set_image(IMAGE)
    return predictor


class Calls:
    """Counts what the network of a predictor does. While ``go_on`` is not set, the encoder stands still."""

    def __init__(self, predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
        self.encoded, self.decoded, self.heads = 0, 0, 0
        self.in_encode, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()
        self.looking_for_an_embedding = 0
        embedding = predictor._windows.embedding
        model = predictor._model
        encode, decode, center_head = model.encode, model.decode, model.center_head.forward

        def counted_encode(images: torch.Tensor) -> torch.Tensor:
            self.encoded += len(images)
            self.in_encode.set()
            assert self.go_on.wait(30)
            return encode(images)

        def counted_decode(*args: Any, **kwargs: Any) -> Any:
            self.decoded += 1
            return decode(*args, **kwargs)

        def counted_head(*args: Any) -> Any:
            self.heads += 1
            return center_head(*args)

        def counted_embedding(*args: Any) -> torch.Tensor:
            self.looking_for_an_embedding += 1
            return embedding(*args)

        monkeypatch.setattr(predictor._windows, "embedding", counted_embedding)
        monkeypatch.setattr(model, "encode", counted_encode)
        monkeypatch.setattr(model, "decode", counted_decode)
        monkeypatch.setattr(model.center_head, "forward", counted_head)

    def take(self) -> tuple[int, int]:
        """(windows encoded, windows decoded) since the last time."""
        taken = self.encoded, self.decoded
        self.encoded = self.decoded = 0
        return taken


@pytest.fixture
def calls(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(predictor, monkeypatch)


def cut(array: np.ndarray, box: Box) -> np.ndarray:
    y0, x0, y1, x1 = box
    return array[y0:y1, x0:x1]


# ---- the answer is the network's


def by_the_network(predictor: Predictor, image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """What evaluation says: the whole slice in one go."""
    height, width = image.shape
    seen = torch.from_numpy(resize_image(image.astype(np.float32), predictor.cfg.INPUT.SCALE))[None]
    (out,) = predictor._model([{"image": seen, "height": height, "width": width, "prompts": {"all": points}}])
    return out["sem_seg"]["all"].numpy()


@pytest.mark.parametrize("scale", ["1.0", "0.5", "0.3", "1.7"])
@pytest.mark.parametrize("size", [(70, 60), (150, 97), (20, 90), (5, 7), (1, 1)])
def test_it_is_that_of_the_sliding_window(make: Make, scale: str, size: tuple[int, int]) -> None:
    """Also of slices smaller than a window, and when the network works at another resolution than the slice."""
    predictor, image = make("INPUT.SCALE", scale), gray(1, *size)
    points = np.random.default_rng(2).uniform(0, 1, (6, 2)) * (size[1], size[0])
    for some in (points, points[:0]):
        answer = predictor.predict(some, image=image)
        assert answer.probability.dtype == np.float32
        np.testing.assert_allclose(answer.probability, by_the_network(predictor, image, some), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "opts",
    [["ROTATIONS", "4"], ["BLEND", "gaussian"], ["STRIDE", "32"], ["STRIDE", "7"], ["ROTATIONS", "4", "STRIDE", "15"]],
    ids=" ".join,
)
def test_in_every_setting_of_the_windows(make: Make, opts: list[str]) -> None:
    predictor = make(*(f"TEST.WINDOW.{word}" if word.isupper() else word for word in opts))
    answer = predictor.predict(POINTS, image=IMAGE)
    np.testing.assert_allclose(answer.probability, by_the_network(predictor, IMAGE, POINTS), rtol=0, atol=1e-5)
    assert np.array_equal(predictor.predict(NONE).probability, make_again(predictor).predict(NONE).probability)


def make_again(predictor: Predictor) -> Predictor:
    """The same network on the same slice, with no memory of anything."""
    again = Predictor.from_model(predictor.cfg, predictor._model, cache_bytes=0)
    again.set_image(IMAGE)
    return again


def test_points_make_a_difference(predictor: Predictor) -> None:
    """Without it most of what follows would prove nothing."""
    none, all_of_them = (predictor.predict(points).probability for points in (NONE, POINTS))
    assert np.abs(none - all_of_them).max() > 0.01


def test_mask_and_instances_are_those_of_the_probability(predictor: Predictor) -> None:
    answer = predictor.predict(POINTS)
    assert np.array_equal(answer.mask, answer.probability > 0.5)
    assert 0 < answer.mask.mean() < 1
    assert np.array_equal(answer.instances, semantic_to_instances(answer.mask, min_size=3))
    assert answer.instances is answer.instances  # computed once


def test_instances_are_split_at_centers_and_clicks(make: Make) -> None:
    """Two clicks on one component are two instances; the density is that of `centers=True`, at the slice's size."""
    predictor = make("INPUT.SCALE", "0.5", "TEST.INSTANCES", "centers")
    predictor.set_image(IMAGE)
    assert predictor.instances == "centers"
    whole = connected_components(predictor.predict(NONE).mask)
    rows, columns = np.nonzero(whole == np.bincount(whole.ravel())[1:].argmax() + 1)
    points = np.stack([columns, rows], -1)[[0, -1]].astype(np.float32) + np.float32(0.5)
    answer = predictor.predict(points)
    assert answer.centers is None  # nobody asked for them
    assert answer.centers_map.shape == IMAGE.shape
    labels, _ = split_at_centers(
        answer.probability, answer.centers_map, points, peak_threshold=predictor.center_threshold
    )
    assert np.array_equal(answer.instances, remove_small(labels, 3))
    at = labels[points[:, 1].astype(int), points[:, 0].astype(int)]
    assert at.min() == 0 or at[0] != at[1]


def test_on_the_way_instances_are_components(make: Make) -> None:
    predictor = make("TEST.INSTANCES", "centers")
    answers = list(predictor.stream(POINTS, image=IMAGE, interval=0))
    assert len(answers) > 1
    assert [answer.centers_map is None for answer in answers] == [True] * (len(answers) - 1) + [False]
    assert np.array_equal(answers[0].instances, semantic_to_instances(answers[0].mask, min_size=3))


def test_instances_that_are_not_known(predictor: Predictor) -> None:
    with pytest.raises(ValueError, match="instances is 'centres'; use 'components' or 'centers'"):
        Predictor((predictor.cfg, predictor._model), instances="centres")


def test_centers_are_the_peaks_of_the_density(make: Make) -> None:
    predictor = make("INPUT.SCALE", "0.5")
    predictor.set_image(IMAGE)
    model = predictor._model
    seen = torch.from_numpy(resize_image(IMAGE.astype(np.float32), 0.5))[None]
    points = torch.from_numpy(POINTS)[None] / 2
    _, density = sliding_window(seen, model.predict_windows_and_density, points=points, **model.window)
    predictor.center_threshold = density.median().item()
    expected, valid, scores = find_peaks(density[None], predictor.center_threshold)
    centers = predictor.predict(POINTS, centers=True).centers
    assert len(centers.points) > 3
    np.testing.assert_allclose(centers.points, 2 * expected[valid].numpy())
    np.testing.assert_allclose(centers.scores, scores[valid].numpy(), atol=1e-5)


def test_centers_come_only_when_asked_for(predictor: Predictor, calls: Calls) -> None:
    assert predictor.predict(POINTS).centers is None
    assert calls.heads == 0  # half of the forward pass
    predictor.predict(POINTS, centers=True)
    assert calls.heads == 9
    assert calls.take()[0] == 9  # the embeddings are shared
    predictor.predict(POINTS, centers=True)
    assert calls.heads == 9


def test_beside_the_unknown_no_center_is_claimed(predictor: Predictor) -> None:
    """There a pixel may be the highest only because its neighbors are not known."""
    predictor.center_threshold = -np.inf
    part = predictor.predict(NONE, region=(0, 0, 10, 10), centers=True).centers
    whole = predictor.predict(NONE, centers=True).centers
    everywhere = {tuple(point) for point in whole.points.tolist()}
    assert 0 < len(part.points) < len(whole.points)
    assert all(tuple(point) in everywhere for point in part.points.tolist())


def test_no_center_where_nothing_is_known(predictor: Predictor) -> None:
    answer = predictor.predict(NONE, region=(500, 500, 600, 600), centers=True)
    assert answer.centers.points.shape == (0, 2)
    assert np.isnan(answer.probability).all()
    assert not answer.mask.any()
    assert answer.changed is None


def test_bfloat16(make: Make) -> None:
    predictor = make("MODEL.PRECISION", "bfloat16")
    first = predictor.predict(POINTS, image=IMAGE).probability
    np.testing.assert_allclose(first, by_the_network(predictor, IMAGE, POINTS), rtol=0, atol=0.03)
    predictor.predict(NONE)
    assert np.array_equal(predictor.predict(POINTS).probability, first)


# ---- what it does, and does not do, again

# Windows begin at rows 0, 20, 38 and at columns 0, 20, 28, and are 32 px wide.


def test_a_click_decodes_the_windows_that_it_lies_in(predictor: Predictor, calls: Calls) -> None:
    predictor.predict(NONE)
    assert calls.take() == (9, 9)
    predictor.predict([[5.5, 5.5]])  # in the corner: only in the first window
    assert calls.take() == (0, 1)
    predictor.predict([[5.5, 5.5], [30.5, 25.5]])  # rows from 0 and 20, all columns
    assert calls.take() == (0, 6)
    predictor.predict([[5.5, 5.6], [30.5, 25.5]])  # moved by a hair
    assert calls.take() == (0, 1)


def test_what_was_decoded_before_is_not_decoded_again(predictor: Predictor, calls: Calls) -> None:
    clicks = [NONE, POINTS[:1], POINTS[:2], POINTS]
    answers = [predictor.predict(points).probability for points in clicks]
    calls.take()
    for points, answer in reversed(list(zip(clicks, answers, strict=True))):  # undo, undo, undo
        assert np.array_equal(predictor.predict(points).probability, answer)
    assert calls.take() == (0, 0)


def test_a_slice_is_there_again_when_one_steps_back(predictor: Predictor, calls: Calls) -> None:
    here = predictor.predict(POINTS, centers=True)
    predictor.predict(NONE, image=gray(1))
    calls.take()
    back = predictor.predict(POINTS, image=IMAGE.copy(), centers=True)
    assert calls.take() == (0, 0)
    assert np.array_equal(back.probability, here.probability)
    assert np.array_equal(back.centers.points, here.centers.points)
    assert back.changed == (0, 0, HEIGHT, WIDTH)


def test_setting_the_same_image_again_changes_nothing(predictor: Predictor) -> None:
    first = predictor.predict(POINTS)
    predictor.set_image(IMAGE.copy())
    second = predictor.predict(POINTS)
    assert second.changed is None
    assert second.probability is first.probability


def other_images() -> Iterator[tuple[str, np.ndarray, tuple[float, float] | None]]:
    yield "one gray value", np.where(np.arange(HEIGHT * WIDTH).reshape(IMAGE.shape) == 4199, IMAGE ^ 1, IMAGE), None
    yield "the same bytes in another shape", IMAGE.reshape(WIDTH, HEIGHT), None
    yield "the same bytes of another type", IMAGE.view(np.int8), (0, 100)
    yield "another range", IMAGE, (0, 100)


@pytest.mark.parametrize(
    ("what", "image", "intensity_range"), list(other_images()), ids=lambda x: x if type(x) is str else ""
)
def test_images_are_not_confused(
    predictor: Predictor, calls: Calls, what: str, image: np.ndarray, intensity_range: tuple[float, float] | None
) -> None:
    predictor.predict(NONE)
    calls.take()
    answer = predictor.predict(NONE, image=image, intensity_range=intensity_range)
    assert calls.take() == (9, 9)
    expected = make_again(predictor).predict(NONE, image=image, intensity_range=intensity_range)
    assert np.array_equal(answer.probability, expected.probability)


def test_sixteen_bits_and_gray_in_color_show_the_same(predictor: Predictor) -> None:
    expected = predictor.predict(POINTS).probability
    sixteen = IMAGE.astype(np.uint16) * 257
    for image, intensity_range in ((sixteen, (0, 65535)), (np.repeat(IMAGE[..., None], 3, -1), None)):
        answer = predictor.predict(POINTS, image=image, intensity_range=intensity_range)
        np.testing.assert_allclose(answer.probability, expected, atol=1e-5)


def test_an_image_may_be_changed_after_it_was_set(predictor: Predictor) -> None:
    image = IMAGE.copy()
    predictor.set_image(image)
    image[:] = 0
    assert np.array_equal(predictor.predict(NONE).probability, make_again(predictor).predict(NONE).probability)


@pytest.mark.parametrize("cache_bytes", [0, 10_000, 40_000, 200_000])
def test_memory_is_bounded(make: Make, monkeypatch: pytest.MonkeyPatch, cache_bytes: int) -> None:
    """An embedding has 2 KiB and a prediction 4 KiB: a slice has 9 of each."""
    predictor = make(cache_bytes=cache_bytes)
    calls, answers = Calls(predictor, monkeypatch), []
    for seed in (0, 1, 0):
        for points in (NONE, POINTS):
            answers.append(predictor.predict(points, image=gray(seed)).probability)
            assert predictor.cache.nbytes <= cache_bytes
    assert all(map(np.array_equal, answers[:2], answers[4:]))
    assert (calls.encoded == 18) == (cache_bytes == 200_000)  # only then no window is encoded twice
    if cache_bytes:
        assert predictor.cache.nbytes > cache_bytes / 2


def test_the_oldest_slice_is_forgotten_first(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = make(cache_bytes=111_000)  # two slices of 54 KiB
    calls = Calls(predictor, monkeypatch)
    for seed, encoded in ((0, 9), (1, 9), (0, 0), (2, 9), (0, 0), (1, 9)):
        predictor.predict(NONE, image=gray(seed))
        assert calls.take()[0] == encoded


# ---- whatever comes before


@cache
def from_scratch(predictor: Predictor, seed: int, points: tuple[tuple[float, float], ...]) -> np.ndarray:
    fresh = Predictor.from_model(predictor.cfg, predictor._model, cache_bytes=1 << 20)
    return fresh.predict(np.array(points, np.float32), image=gray(seed)).probability


coordinates = st.tuples(st.integers(0, 2 * WIDTH - 1), st.integers(0, 2 * HEIGHT - 1)).map(
    lambda p: (p[0] / 2, p[1] / 2)
)
regions = st.one_of(
    st.none(),
    st.tuples(st.integers(-10, HEIGHT), st.integers(-10, WIDTH), st.integers(1, 40), st.integers(1, 40)).map(
        lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
    ),
)
operations = st.one_of(
    st.tuples(st.just("add"), coordinates),
    st.tuples(st.just("move"), st.integers(0, 9), coordinates),
    st.tuples(st.just("remove"), st.integers(0, 9)),
    st.tuples(st.just("shuffle"), st.randoms(use_true_random=False)),
    st.tuples(st.just("slice"), st.integers(0, 2)),
)


@pytest.mark.parametrize("scale", ["1.0", "0.6"])
def test_only_the_points_count_and_not_the_way_to_them(tiny: list[str], scale: str) -> None:
    """Any sequence of clicks, steps to other slices and views: bit by bit as if it were the first question.

    And the box that is said to have changed holds all that did.
    """
    origin = tiny_predictor(tiny, "INPUT.SCALE", scale)

    @settings(max_examples=30)
    @given(st.lists(st.tuples(operations, regions), max_size=8), st.sampled_from([0, 30_000, 1 << 20]))
    def check(steps: list[tuple[tuple[Any, ...], Box | None]], cache_bytes: int) -> None:
        predictor = Predictor.from_model(origin.cfg, origin._model, cache_bytes=cache_bytes)
        points: list[tuple[float, float]] = []
        seed, before = 0, None
        for (what, *about), region in steps:
            if what == "add":
                points.append(about[0])
            elif what == "move" and points:
                points[about[0] % len(points)] = about[1]
            elif what == "remove" and points:
                del points[about[0] % len(points)]
            elif what == "shuffle":
                about[0].shuffle(points)
            elif what == "slice" and about[0] != seed:
                seed, before = about[0], None
            answer = predictor.predict(points, image=gray(seed), region=region)
            expected = from_scratch(origin, seed, tuple(sorted(points)))
            known = ~np.isnan(answer.probability)
            assert np.array_equal(answer.probability[known], expected[known])
            y0, x0, y1, x1 = region or (0, 0, HEIGHT, WIDTH)
            assert known[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)].all()
            if before is None:
                before = np.full((HEIGHT, WIDTH), np.nan, np.float32)
            patched = before.copy()
            if answer.changed is not None:
                cut(patched, answer.changed)[:] = cut(answer.probability, answer.changed)
            assert np.array_equal(patched, answer.probability, equal_nan=True)
            before = answer.probability

    check()


def test_two_points_at_one_place_are_two(predictor: Predictor) -> None:
    """As in evaluation, where nobody counts them either."""
    twice = np.repeat(POINTS, 2, axis=0)
    answer = predictor.predict(twice).probability
    np.testing.assert_allclose(answer, by_the_network(predictor, IMAGE, twice), rtol=0, atol=1e-5)


def test_answers_are_kept(predictor: Predictor) -> None:
    points = POINTS.copy()
    first = predictor.predict(points)
    kept = first.probability.copy()
    points[:] = 1
    predictor.predict(NONE)
    assert np.array_equal(first.probability, kept)
    assert np.array_equal(first.points, POINTS)
    with pytest.raises(ValueError, match="read-only"):
        first.probability[0, 0] = 0


# ---- a part of a large slice


def test_only_what_is_looked_at_is_encoded(predictor: Predictor, calls: Calls) -> None:
    answer = predictor.predict(NONE, region=(2, 3, 12, 15))
    assert calls.take() == (1, 1)
    assert answer.changed == (0, 0, 32, 32)
    assert not np.isnan(answer.probability[:20, :20]).any()  # further right and down, other windows see it as well
    assert np.isnan(answer.probability[20:]).all()
    assert np.isnan(answer.probability[:, 20:]).all()
    predictor.predict(NONE, region=(2.5, 3.2, 12.9, 15))  # of a viewer that is zoomed in
    assert calls.take() == (0, 0)


def test_points_outside_the_view_wait_until_somebody_looks(predictor: Predictor, calls: Calls) -> None:
    predictor.predict(POINTS, region=(0, 0, 10, 10))
    assert calls.take() == (1, 1)
    whole = predictor.predict(POINTS)
    assert calls.take() == (8, 8)
    assert np.array_equal(whole.probability, make_again(predictor).predict(POINTS).probability)


def test_what_is_known_outside_the_view_follows_the_points(predictor: Predictor, calls: Calls) -> None:
    predictor.predict(POINTS)
    calls.take()
    answer = predictor.predict(POINTS[:2], region=(0, 0, 10, 10))  # the last point is far away
    assert np.array_equal(answer.probability, make_again(predictor).predict(POINTS[:2]).probability)


def test_windows_are_encoded_from_the_middle_of_the_view(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    middles = []
    encode = predictor._model.encode
    monkeypatch.setattr(predictor._model, "encode", lambda x: middles.append(position_of(x)) or encode(x))
    predictor.predict(NONE, region=(30, 20, 40, 40))
    distances = [np.hypot(y + 16 - 35, x + 16 - 30) for y, x in middles]
    assert len(distances) == 9
    assert distances == sorted(distances)


def position_of(window: torch.Tensor) -> tuple[int, int]:
    wanted = window[0, 0].numpy()
    for y, x in itertools.product((0, 20, 38), (0, 20, 28)):
        if np.array_equal(IMAGE[y : y + 32, x : x + 32], wanted):
            return y, x
    raise AssertionError("not a window of the slice")


# ---- answers on the way


def test_a_stream_grows_to_the_whole_answer(predictor: Predictor) -> None:
    answers = list(predictor.stream(POINTS, interval=0))
    assert [answer.done for answer in answers] == list(range(1, 10))
    assert {answer.total for answer in answers} == {9}
    canvas = np.full((HEIGHT, WIDTH), np.nan, np.float32)
    for answer in answers:  # a viewer that only ever draws the box that changed
        cut(canvas, answer.changed)[:] = cut(answer.probability, answer.changed)
        assert np.array_equal(canvas, answer.probability, equal_nan=True)
    assert np.array_equal(canvas, make_again(predictor).predict(POINTS).probability)
    unknown = [np.isnan(answer.probability).sum() for answer in answers]
    assert unknown == sorted(unknown, reverse=True)


def test_a_click_is_answered_before_anything_is_encoded(predictor: Predictor, calls: Calls) -> None:
    """The view has moved, and on the part that is known there is a new point: that comes first."""
    predictor.predict(NONE, region=(0, 0, 10, 10))
    calls.take()
    answers = predictor.stream([[5.5, 5.5]], interval=60)
    first = next(answers)
    assert calls.take() == (0, 1)
    assert (first.done, first.total) == (1, 9)
    (last,) = answers
    assert calls.take() == (8, 8)
    assert np.array_equal(last.probability, make_again(predictor).predict([[5.5, 5.5]]).probability)


def test_the_mask_does_not_wait_for_the_centers(predictor: Predictor, calls: Calls) -> None:
    mask, centers = predictor.stream(POINTS, centers=True, interval=60)
    assert (mask.done, mask.total, mask.centers) == (9, 18, None)
    assert (centers.done, centers.changed) == (18, None)
    assert centers.centers is not None


def test_progress_counts_windows(predictor: Predictor) -> None:
    seen: list[tuple[int, int]] = []
    predictor.predict(NONE, region=(0, 0, 30, 10), progress=lambda *args: seen.append(args))
    assert seen == [(1, 2), (2, 2)]


def test_after_an_error_on_the_way_nothing_is_lost(predictor: Predictor) -> None:
    def fail(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predictor.predict(POINTS, progress=fail)
    answer = predictor.predict(POINTS)
    assert answer.total == 4
    assert answer.changed == (0, 0, HEIGHT, WIDTH)
    assert np.array_equal(answer.probability, make_again(predictor).predict(POINTS).probability)


# ---- threads


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def start_and_stop_in_encode(pool: ThreadPoolExecutor, calls: Calls, predict: Callable[[], Any]) -> Future:
    """A call that is running now: its window in work ends with ``calls.go_on.set()``."""
    calls.in_encode.clear()
    calls.go_on.clear()
    running = pool.submit(predict)
    assert calls.in_encode.wait(30)
    return running


def test_the_newest_call_wins(predictor: Predictor, calls: Calls, pool: ThreadPoolExecutor) -> None:
    older = start_and_stop_in_encode(pool, calls, lambda: predictor.predict(NONE))
    newer = pool.submit(predictor.predict, POINTS)
    wait_for(lambda: calls.looking_for_an_embedding == 2)  # both want the same window
    calls.go_on.set()
    assert np.array_equal(newer.result(30).probability, make_again(predictor).predict(POINTS).probability)
    with pytest.raises(Superseded, match="a newer call came"):
        older.result(30)
    assert calls.encoded - 9 == 9  # not even the window in work was encoded twice; 9 are those of make_again


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)


def test_a_click_does_not_wait_for_the_encoder(predictor: Predictor, calls: Calls, pool: ThreadPoolExecutor) -> None:
    """A large slice is being encoded; in the part that is there already one goes on clicking."""
    predictor.predict(NONE, region=(0, 0, 10, 10))
    older = start_and_stop_in_encode(pool, calls, lambda: predictor.predict(NONE))
    answer = pool.submit(predictor.predict, [[5.5, 5.5]], region=(0, 0, 10, 10)).result(30)
    assert not older.done()
    expected = make_again(predictor)
    calls.go_on.set()
    assert np.array_equal(
        cut(answer.probability, (0, 0, 20, 20)), cut(expected.predict([[5.5, 5.5]]).probability, (0, 0, 20, 20))
    )
    with pytest.raises(Superseded):
        older.result(30)


def test_who_waits_in_vain_does_not_encode(predictor: Predictor, calls: Calls, pool: ThreadPoolExecutor) -> None:
    """Three calls for three windows, one after the other: the second never gets to work."""
    corners = [(0, 0, 5, 5), (65, 0, 70, 5), (0, 55, 5, 60)]
    first = start_and_stop_in_encode(pool, calls, lambda: predictor.predict(NONE, region=corners[0]))
    second = pool.submit(predictor.predict, NONE, region=corners[1])
    wait_for(lambda: calls.looking_for_an_embedding == 2)
    third = pool.submit(predictor.predict, NONE, region=corners[2])
    wait_for(lambda: calls.looking_for_an_embedding == 3)
    calls.go_on.set()
    third.result(30)
    for overtaken in (first, second):
        with pytest.raises(Superseded):
            overtaken.result(30)
    assert calls.encoded == 2


def meanwhile(predictor: Predictor, monkeypatch: pytest.MonkeyPatch, happens: Callable[[], Any]) -> None:
    """Lets something happen when the next call has begun and not done anything yet."""
    take = predictor._calls.start

    def interrupted() -> int:
        monkeypatch.setattr(predictor._calls, "start", take)
        ticket = take()
        happens()
        return ticket

    monkeypatch.setattr(predictor._calls, "start", interrupted)


def test_of_two_images_the_newer_stays(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    meanwhile(predictor, monkeypatch, lambda: predictor.set_image(gray(2)))
    with pytest.raises(Superseded, match="a newer image"):
        predictor.set_image(gray(1))
    expected = make_again(predictor).predict(NONE, image=gray(2))
    assert np.array_equal(predictor.predict(NONE).probability, expected.probability)


def test_no_answer_is_of_the_image_before(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The question came while a new image was being set, and was checked against the old one."""
    asked = []
    meanwhile(predictor, monkeypatch, lambda: asked.append(predictor.stream(POINTS)))
    predictor.set_image(gray(1))
    with pytest.raises(Superseded, match="another image was set"):
        next(asked[0])


@pytest.mark.parametrize("newer", ["cancel", "set_image"])
def test_a_call_can_be_stopped(predictor: Predictor, calls: Calls, pool: ThreadPoolExecutor, newer: str) -> None:
    older = start_and_stop_in_encode(pool, calls, lambda: predictor.predict(NONE))
    if newer == "cancel":
        predictor.cancel()  # does not wait
    else:
        predictor.set_image(gray(1))
    calls.go_on.set()
    with pytest.raises(Superseded):
        older.result(30)
    assert calls.take() == (1, 1)
    assert not np.isnan(predictor.predict(NONE).probability).any()


def test_a_stream_that_was_left_or_overtaken(predictor: Predictor) -> None:
    left = predictor.stream(NONE, interval=0)
    next(left)
    left.close()
    overtaken = predictor.stream(NONE, interval=0)
    next(overtaken)
    answer = predictor.predict(POINTS)
    with pytest.raises(Superseded):
        next(overtaken)
    assert np.array_equal(answer.probability, make_again(predictor).predict(POINTS).probability)


def test_a_bad_question_stops_nobody(predictor: Predictor) -> None:
    good = predictor.stream(POINTS, interval=0)
    for bad in ({"points": [[-1, 5]]}, {"points": NONE, "region": (5, 5, 5, 9)}, {"points": NONE, "image": [1, 2]}):
        with pytest.raises(ValueError, match=r"point 0|region is|one slice"):
            predictor.predict(**bad)
    assert len(list(good)) == 9


def test_a_stream_is_of_the_image_that_it_was_started_on(predictor: Predictor) -> None:
    waiting = predictor.stream(POINTS)
    predictor.set_image(gray(1))
    with pytest.raises(Superseded):
        next(waiting)


def test_many_threads_at_once(predictor: Predictor, pool: ThreadPoolExecutor) -> None:
    """Each call gives exactly the answer to its own question, image and points, or says that it was overtaken."""
    questions = [(seed, POINTS[: i % 4]) for i, seed in enumerate([0, 1, 2, 0, 2, 1] * 10)]
    expected = {
        (seed, n): make_again(predictor).predict(POINTS[:n], image=gray(seed)).probability
        for seed in range(3)
        for n in range(4)
    }

    def ask(question: tuple[int, np.ndarray]) -> Segmentation | None:
        seed, points = question
        try:
            return predictor.predict(points, image=gray(seed))
        except Superseded:
            return None

    answers = list(pool.map(ask, questions))
    for (seed, points), answer in zip(questions, answers, strict=True):
        assert answer is None or np.array_equal(answer.probability, expected[seed, len(points)])
    assert any(answer is not None for answer in answers)
    last = predictor.predict(POINTS, image=IMAGE)
    assert np.array_equal(last.probability, expected[0, 3])


# ---- bad input, files


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([[5, 5], [60, 5]], r"point 1 \(x=60, y=5\) lies outside the image of 60 x 70 px \(width x height\)"),
        ([[5, -0.1]], r"point 0 \(x=5, y=-0.1\) lies outside"),
        ([[5, np.nan]], r"point 0 \(x=5, y=nan\) lies outside"),
        ([[5, np.inf]], r"point 0 \(x=5, y=inf\) lies outside"),
        ([5, 5], r"points have shape \(2,\); expected \(number, 2\)"),
        ([[5, 5, 5]], r"points have shape \(1, 3\)"),
    ],
)
def test_bad_points_are_named(predictor: Predictor, points: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        predictor.predict(points)


@pytest.mark.parametrize("region", [(0, 0, 10), (0, 0, 0, 10), (0, 10, 5, 5), (0, 0, np.nan, 5), "all", 5])
def test_a_bad_region_is_named(predictor: Predictor, region: Any) -> None:
    with pytest.raises(ValueError, match=r"region is .*expected"):
        predictor.predict(NONE, region=region)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((0, 5), np.uint8), r"shape \(0, 5\)"),
        (np.arange(75, dtype=np.uint8).reshape(5, 5, 3), "is in color"),
        (np.full((5, 5), np.nan), "the first is nan in row 0, column 0"),
    ],
)
def test_a_bad_image_is_refused_and_the_one_before_stays(predictor: Predictor, image: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        predictor.set_image(image)
    with pytest.raises(ValueError, match=message):
        predictor.predict(NONE, image=image)
    assert np.array_equal(predictor.predict(NONE).probability, make_again(predictor).predict(NONE).probability)


def test_without_an_image_there_is_nothing_to_predict(make: Make) -> None:
    with pytest.raises(RuntimeError, match="no image yet: call set_image"):
        make().predict(NONE)


@pytest.fixture
def weights(make: Make, tmp_path: Path) -> Path:
    predictor, path = make(), tmp_path / "shared.safetensors"
    export_weights(path, predictor._model.state_dict(), predictor.cfg.dump())
    return path


def test_it_opens_weights(weights: Path, predictor: Predictor) -> None:
    opened = Predictor(weights, device="cpu", cache_bytes=50_000)
    assert opened.device == torch.device("cpu")
    answer = opened.predict(POINTS, image=IMAGE)
    assert np.array_equal(answer.probability, predictor.predict(POINTS).probability)
    assert 0 < opened.cache.nbytes <= 50_000
    gaussian = Predictor(weights, opts=["TEST.WINDOW.BLEND", "gaussian"]).predict(POINTS, image=IMAGE)
    assert not np.array_equal(gaussian.probability, answer.probability)


def test_it_opens_a_model_by_its_name(weights: Path, predictor: Predictor, models_home: Path) -> None:
    weights.rename(models_home / "em-tiny.safetensors")
    answer = Predictor("em-tiny").predict(POINTS, image=IMAGE)
    assert np.array_equal(answer.probability, predictor.predict(POINTS).probability)


def test_weights_of_another_network_are_refused(weights: Path) -> None:
    with pytest.raises(ValueError, match="do not fit the network of this config"):
        Predictor(weights, opts=["MODEL.VIT.EMBED_DIM", "64"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there(weights: Path) -> None:
    with pytest.raises(ValueError, match="device is 'cuda', but torch finds no GPU"):
        Predictor(weights, device="cuda")


def test_a_network_in_training_is_put_to_rest(tiny_cfg: CfgNode) -> None:
    model = PromptDAS(tiny_cfg).train()
    Predictor.from_model(tiny_cfg, model)
    assert not model.training


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_cpu(make: Make) -> None:
    on_gpu, on_cpu = make("MODEL.DEVICE", "cuda"), make()
    on_gpu._model.cuda()
    for predictor in (on_gpu, on_cpu):
        predictor.set_image(IMAGE)
    np.testing.assert_allclose(on_gpu.predict(POINTS).probability, on_cpu.predict(POINTS).probability, atol=1e-3)
    first = on_gpu.predict(POINTS).probability
    on_gpu.predict(NONE)
    assert np.array_equal(on_gpu.predict(POINTS).probability, first)


# ---- labels


@pytest.fixture
def following(make: Make, tiny: list[str]) -> Predictor:
    """A network that knows negative clicks."""
    predictor = make("MODEL.PROMPT_ENCODER.NAME", "ClickPromptEncoder")
    assert predictor.uses_negative_clicks
    predictor.set_image(IMAGE)
    return predictor


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


# ---- one physical scale


PHYSICAL = ("INPUT.PIXEL_SIZE", "16")


def test_a_pixel_size_or_a_diameter_is_the_scale_that_follows_from_it(tiny: list[str]) -> None:
    """8 nm a pixel, or objects of 29 pixels, are half of what the network takes: 16 nm, or 14.5 pixels."""
    fixed = tiny_predictor(tiny, "INPUT.SCALE", "0.5")
    expected = fixed.predict(POINTS, image=IMAGE).probability
    network = (tiny_predictor(tiny, *PHYSICAL).cfg, fixed._model)
    for size in ({"pixel_size": 8}, {"diameter": 29}):
        predictor = Predictor(network, **size)
        assert predictor.scale == 0.5
        np.testing.assert_array_equal(predictor.predict(POINTS, image=IMAGE).probability, expected)


def test_weights_carry_the_pixel_size(tiny: list[str], tmp_path: Path) -> None:
    origin, path = tiny_predictor(tiny, *PHYSICAL), tmp_path / "tiny.safetensors"
    export_weights(path, origin._model.state_dict(), origin.cfg.dump())
    assert Predictor(path, pixel_size=4).scale == 0.25


def test_images_of_unknown_pixel_size_are_refused(tiny: list[str]) -> None:
    predictor = tiny_predictor(tiny, *PHYSICAL)
    for ask in (predictor.set_image, lambda image: predictor.predict(NONE, image=image)):
        with pytest.raises(ValueError, match=r"pixels of 16 nm.*pixel_size=8.*diameter=36"):
            ask(IMAGE)


def test_an_image_may_come_with_its_own_scale(tiny: list[str]) -> None:
    """And the same image at another scale is another question."""
    predictor = tiny_predictor(tiny, *PHYSICAL)
    for scale in ("0.5", "0.25"):
        expected = tiny_predictor(tiny, "INPUT.SCALE", scale).predict(POINTS, image=IMAGE).probability
        answer = predictor.predict(POINTS, image=IMAGE, scale=float(scale))
        np.testing.assert_array_equal(answer.probability, expected)


def test_sizes_that_can_hardly_be_meant_are_refused(tiny: list[str]) -> None:
    network = (tiny_predictor(tiny, *PHYSICAL).cfg, tiny_predictor(tiny)._model)
    with pytest.raises(ValueError, match=r"in nanometers; .* looks like µm: that is 8"):
        Predictor(network, pixel_size=0.008)
    with pytest.raises(ValueError, match=r"a diameter of 1 pixels would make 14.5"):
        Predictor(network, diameter=1)
