"""Pseudo-labels of a teacher whose predictions are made by hand."""

from __future__ import annotations

from typing import Any

from prompt_das.adaptation.pseudo_labels import PseudoLabeler, PseudoLabelLoader
from prompt_das.data.augmentation import RightAngle
from prompt_das.data.pixel_maps import forward_pixel_map, inverse_pixel_map
from prompt_das.modeling.meta_arch import Prediction
from prompt_das.ops.batching import valid_points
from prompt_das.ops.points import NEGATIVE, as_clicks, render_density

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from fvcore.transforms.transform import NoOpTransform, Transform, TransformList
from torch import Tensor

SIZE = (24, 32)  # (H, W)
SPARSE = np.array([[4.5, 6.5]], np.float32)
CENTERS = np.array([[4.5, 7.5], [20.5, 5.5], [12.5, 18.5]], np.float32)  # the first repeats the sparse point
NONE = CENTERS[:0]


class Teacher:
    """Sees a center point at each of ``centers`` and the foreground ``probability``; writes down what it is shown."""

    device = torch.device("cpu")

    def __init__(self, centers: np.ndarray = CENTERS, probability: np.ndarray | float = 0.5) -> None:
        self.centers = torch.from_numpy(centers)
        self.probability = torch.as_tensor(probability).expand(SIZE)
        self.encoded = 0
        self.prompts: list[list[list[list[float]]]] = []  # of each pass, of each image
        self.clicks: list[list[list[list[float]]]] = []  # the same, with their labels
        self.decoded: list[tuple[str, ...]] = []

    def encode(self, images: Tensor) -> Tensor:
        assert images.shape[1:] == (1, *SIZE)
        self.encoded += 1
        return images

    def decode(
        self, embedding: Tensor, points: Tensor, valid: Tensor, image_size: tuple[int, int], *, with_mask: bool = True,
        with_density: bool = True,
    ) -> Prediction:  # fmt: skip
        assert image_size == SIZE
        assert not torch.is_grad_enabled()
        self.clicks.append([as_clicks(p[v].numpy()).tolist() for p, v in zip(points, valid, strict=True)])
        self.prompts.append([p[v][:, :2].tolist() for p, v in zip(points, valid, strict=True)])
        self.decoded.append(tuple(name for name, on in (("mask", with_mask), ("density", with_density)) if on))
        b = len(embedding)
        centers = self.centers.expand(b, -1, -1)
        return Prediction(
            self.probability.logit().expand(b, *SIZE),
            render_density(centers, torch.ones(centers.shape[:2], dtype=torch.bool), SIZE, 3.0),
            torch.zeros(b, 0, 8),
        )


def labeler(teacher: Teacher, *use: str, use_prompts: bool = True, **changes: Any) -> PseudoLabeler:
    """Settings of the paper, but for a suppression radius of 3 pixels and a handful of contrastive points."""
    settings = {
        "put_metrics": lambda metrics: None,
        "target_losses": frozenset(use or ("points", "masks", "contrastive")),
        "use_prompts": use_prompts,
        "suppression_radius": 3.0,
        "peaks": {"threshold": 0.49, "kernel": 5, "top_k": 10},
        "density_ignore": 1.0,
        "require_peak": False,
        "pixel_confidence": 0.7,
        "image_confidence": 0.97,
        "contrastive": CONTRASTIVE,
        "recall_period": 0,
    }
    return PseudoLabeler(teacher=teacher, **(settings | changes))


CONTRASTIVE = {
    "queries_per_instance": 3,
    "max_queries": 20,
    "num_negatives": 30,
    "foreground": 0.9,
    "background": 0.1,
}


def sample(
    sparse: np.ndarray = SPARSE, move: Transform | None = None, seed: int = 0, negative: np.ndarray | None = None
) -> dict[str, Any]:
    """What TargetMapper gives; every pixel of the image has its own gray value."""
    negative = NONE if negative is None else negative
    weak = np.arange(SIZE[0] * SIZE[1], dtype=np.float32).reshape(SIZE)
    move = TransformList([move or NoOpTransform()])
    strong = np.ascontiguousarray(move.apply_image(weak))
    rng = np.random.default_rng(seed)
    return {
        "domain": "target",
        "image_id": "demo/0",
        "box": (0, 0, 32, 32),
        "weak_image": torch.from_numpy(weak)[None],
        "image": torch.from_numpy(strong)[None],
        "sparse_points": torch.from_numpy(sparse),
        "strong_sparse_points": torch.from_numpy(move.apply_coords(sparse)),
        "negative_clicks": torch.from_numpy(negative),
        "inverse_pixel_map": torch.from_numpy(inverse_pixel_map(move, *SIZE)),
        "forward_pixel_map": torch.from_numpy(forward_pixel_map(move, *SIZE)),
        "noise": torch.from_numpy(rng.integers(2**31, size=strong.shape, dtype=np.int32)),
        "prompt_ratio": torch.tensor(rng.random(), dtype=torch.float32),
    }


def run(labeling: PseudoLabeler, *samples: dict[str, Any]) -> list[dict[str, Any]]:
    """What the student gets, with its points without padding."""
    return [without_padding(x) | {"contrastive": without_padding(x["contrastive"])} for x in labeling(list(samples))]


def without_padding(x: dict[str, Any]) -> dict[str, Any]:
    names = {"points", "prompts", "positives", "queries", "negatives"} & x.keys()
    rest = {name: value for name, value in x.items() if name.removesuffix("_valid") not in names}
    return rest | {name: valid_points(x, name) for name in names}


def as_set(points: np.ndarray) -> set[tuple[float, float]]:
    return {(float(p[0]), float(p[1])) for p in points}


# ---- pseudo points


def test_points_are_the_sparse_ones_and_the_teacher_s_without_those_that_repeat_them() -> None:
    """The teacher's first point lies 1 pixel from the sparse one, closer than 3: it says the same again."""
    (labeled,) = run(labeler(Teacher()), sample())
    assert as_set(labeled["points"]) == as_set(np.concatenate([SPARSE, CENTERS[1:]]))
    assert labeled["points"].dtype == np.float32


def test_without_sparse_points_all_of_the_teacher_s_remain() -> None:
    (labeled,) = run(labeler(Teacher()), sample(NONE))
    assert as_set(labeled["points"]) == as_set(CENTERS)


def test_only_the_distance_decides() -> None:
    (labeled,) = run(labeler(Teacher(), suppression_radius=0.9), sample())
    assert as_set(labeled["points"]) == as_set(np.concatenate([SPARSE, CENTERS]))


def test_a_teacher_that_sees_nothing_leaves_the_sparse_points() -> None:
    (labeled,) = run(labeler(Teacher(NONE)), sample())
    assert as_set(labeled["points"]) == as_set(SPARSE)
    (labeled,) = run(labeler(Teacher(NONE)), sample(NONE))
    assert labeled["points"].shape == (0, 2)
    assert labeled["prompts"].shape == (0, 3)


def test_weak_peaks_are_no_points() -> None:
    (labeled,) = run(labeler(Teacher(), peaks={"threshold": 1.01, "kernel": 5, "top_k": 10}), sample())
    assert as_set(labeled["points"]) == as_set(SPARSE)


def test_a_density_without_a_point_near_may_be_left_out() -> None:
    """Above 0.25, say, nobody knows whether the teacher has missed an instance. By default no density is above 1."""
    faint = {"peaks": {"threshold": 2.0, "kernel": 5, "top_k": 10}}  # nothing becomes a point
    (labeled,) = run(labeler(Teacher(CENTERS[1:2]), density_ignore=0.25, **faint), sample())
    row, column = 5, 20
    # exp(-d^2 / 18) > 0.25 means d^2 < 25: four pixels away, not five
    assert labeled["density_ignore"][row, column - 6 : column + 7].tolist() == [False] * 2 + [True] * 9 + [False] * 2
    assert labeled["density_ignore"][row - 5 : row + 6, column].tolist() == [False] + [True] * 9 + [False]
    (labeled,) = run(labeler(Teacher()), sample())
    assert not labeled["density_ignore"].any()


# ---- what the teacher is asked


def test_first_the_sparse_points_are_shown_then_all() -> None:
    """One pass of the encoder, two of the decoder, each asked only for what is used: a density, then a mask."""
    teacher = Teacher()
    run(labeler(teacher), sample(), sample(NONE))
    assert teacher.encoded == 1
    assert teacher.decoded == [("density",), ("mask",)]
    first, second = teacher.prompts
    assert first == [SPARSE.tolist(), []]
    assert [as_set(p) for p in second] == [as_set(np.concatenate([SPARSE, CENTERS[1:]])), as_set(CENTERS)]


def test_without_prompts_the_teacher_sees_none_and_the_student_gets_none() -> None:
    teacher = Teacher()
    (labeled,) = run(labeler(teacher, use_prompts=False), sample())
    assert teacher.prompts == [[[]], [[]]]
    assert len(labeled["prompts"]) == 0
    assert as_set(labeled["points"]) == as_set(np.concatenate([SPARSE, CENTERS[1:]]))  # still labels


def test_without_point_pseudo_labels_the_density_is_not_decoded() -> None:
    teacher = Teacher()
    (labeled,) = run(labeler(teacher, "masks"), sample())
    assert teacher.decoded == [("mask",)]
    assert teacher.prompts == [[SPARSE.tolist()]]
    assert as_set(labeled["points"]) == as_set(SPARSE)


# ---- pseudo masks


def test_thresholds_of_confidence_by_hand() -> None:
    """Confidence is max(p, 1 - p): 0.98, 0.75, 0.55, 0.75, 0.99 in the columns. Pixels below 0.7 do not count; the
    weight of the image is the share of pixels of at least 0.97."""
    probability = np.full(SIZE, 0.55, np.float32)
    probability[:, 0], probability[:, 1], probability[:, 3], probability[:, 4:12] = 0.98, 0.75, 0.25, 0.01
    (labeled,) = run(labeler(Teacher(probability=probability)), sample())
    assert labeled["mask"][0, :5].tolist() == [1, 1, 1, 0, 0]
    assert labeled["pixel_valid"][0, :5].tolist() == [True, True, False, True, True]
    assert labeled["image_weight"] == pytest.approx((1 + 8) / 32)
    assert (labeled["mask"] == labeled["mask"][:1]).all()
    assert labeled["mask"].shape == labeled["pixel_valid"].shape == SIZE


def test_a_teacher_that_is_unsure_everywhere_weighs_nothing() -> None:
    (labeled,) = run(labeler(Teacher(probability=0.6)), sample())
    assert labeled["image_weight"] == 0
    assert not labeled["pixel_valid"].any()


# ---- prompts for the student


def test_prompts_are_a_random_subset_of_all_points() -> None:
    """Every size from none to all is equally likely: of 3 points a quarter of the samples get none."""
    labeling = labeler(Teacher())
    allowed = as_set(np.concatenate([SPARSE, CENTERS[1:]]))
    prompts = [run(labeling, sample(seed=seed))[0]["prompts"] for seed in range(200)]
    assert all(as_set(p) <= allowed and len(as_set(p)) == len(p) for p in prompts)
    counts = np.bincount([len(p) for p in prompts], minlength=4)
    assert len(counts) == 4
    assert (np.abs(counts - 50) < 25).all()  # four standard deviations
    assert set().union(*(as_set(p) for p in prompts if len(p) == 1)) == allowed


def test_the_seed_of_the_sample_decides() -> None:
    teacher = Teacher(probability=np.random.default_rng(0).random(SIZE, np.float32))
    a, b = (run(labeler(teacher), sample(seed=3))[0] for _ in range(2))
    c = run(labeler(teacher), sample(seed=4))[0]
    assert np.array_equal(a["prompts"], b["prompts"])
    assert np.array_equal(a["contrastive"]["queries"], b["contrastive"]["queries"])
    assert not np.array_equal(a["contrastive"]["negatives"], c["contrastive"]["negatives"])


def test_what_else_is_in_the_batch_does_not_matter() -> None:
    """Two processes with a sample each make the same labels as one with both."""
    probability = np.random.default_rng(0).random(SIZE, np.float32)
    labeling = labeler(Teacher(probability=probability))
    more = np.array([[4.5, 6.5], [9.25, 8.75], [30.5, 20.5]], np.float32)
    for seed in range(10):
        samples = [sample(seed=seed), sample(more, RightAngle(2, True, *SIZE), seed=50 + seed), sample(NONE, seed=99)]
        for together, x in zip(run(labeling, *samples), samples, strict=True):
            (alone,) = run(labeling, x)
            for name in ("points", "prompts"):
                assert np.array_equal(together[name], alone[name]), name
            for name in ("positives", "queries", "negatives"):
                assert np.array_equal(together["contrastive"][name], alone["contrastive"][name]), name
            for name in ("mask", "pixel_valid", "image_weight", "density_ignore"):
                assert torch.equal(together[name], alone[name]), name


# ---- into the student's view


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("k", range(4))
def test_image_masks_and_points_move_together(k: int, flip: bool) -> None:
    """Under each of the eight symmetries: what lay under a point of the weak view lies under its moved point.

    Gray values are numbers of weak pixels, so the student's image says where each of its pixels came from.
    """
    probability = np.random.default_rng(1).random(SIZE, np.float32)
    labeling = labeler(Teacher(probability=probability), density_ignore=0.25)
    there, here = sample(seed=6), sample(seed=6, move=RightAngle(k, flip, *SIZE))
    here["noise"] = there["noise"].flatten()[here["inverse_pixel_map"]]  # so that the same points are drawn
    there["prompt_ratio"] = here["prompt_ratio"] = torch.tensor(0.6)  # two of three
    (weak,), (strong,) = run(labeling, there), run(labeling, here)
    moved_size = SIZE[::-1] if k % 2 else SIZE
    image = strong["image"][0].numpy().astype(int)
    assert image.shape == moved_size
    for name in ("mask", "pixel_valid", "density_ignore"):
        np.testing.assert_array_equal(strong[name].numpy(), weak[name].numpy().ravel()[image], err_msg=name)
        assert 0 < strong[name].float().mean() < 1, name
    assert strong["image_weight"] == pytest.approx(weak["image_weight"])

    groups = {"points": (weak["points"], strong["points"]), "prompts": (weak["prompts"], strong["prompts"])}
    groups |= {kind: (weak["contrastive"][kind], strong["contrastive"][kind]) for kind in weak["contrastive"]}
    assert groups.keys() == {"points", "prompts", "positives", "queries", "negatives"}
    for name, (before, after) in groups.items():
        assert len(before), name
        was = (np.floor(before[:, 1]) * SIZE[1] + np.floor(before[:, 0])).astype(int)
        np.testing.assert_array_equal(np.sort(pixels_under(after, image)), np.sort(was), err_msg=name)
        np.testing.assert_array_equal(after[:, :2] % 1, 0.5, err_msg=name)  # pixel centers stay pixel centers


def pixels_under(points: np.ndarray, image: np.ndarray) -> np.ndarray:
    columns, rows = np.floor(points[:, :2]).astype(int).T
    return image[rows, columns]


def test_positives_are_the_sparse_points_queries_foreground_and_negatives_background() -> None:
    probability = np.full(SIZE, 0.5, np.float32)
    probability[2:8, 2:8], probability[12:, 20:] = 0.95, 0.05
    (labeled,) = run(labeler(Teacher(probability=probability)), sample())
    contrastive = labeled["contrastive"]
    assert as_set(contrastive["positives"]) == as_set(SPARSE)
    assert len(contrastive["queries"]) == 3
    assert (pixels_under(contrastive["queries"], probability) > 0.9).all()
    assert len(contrastive["negatives"]) == 30
    assert (pixels_under(contrastive["negatives"], probability) < 0.1).all()


# ---- config, loader, log


def test_settings_come_from_the_config(tiny_cfg: CfgNode) -> None:
    node = tiny_cfg.DOMAIN_ADAPT
    node.USE_CONTRASTIVE = node.USE_PROMPTS = False
    node.POINTS.TOP_K, node.MASKS.PIXEL_CONFIDENCE, node.CONTRASTIVE.MAX_QUERIES = 17, 0.8, 99
    labeling = PseudoLabeler(tiny_cfg, Teacher(), print)
    assert labeling.target_losses == {"points", "masks"}
    assert not labeling.use_prompts
    assert labeling.suppression_radius == tiny_cfg.MODEL.CENTER_HEAD.SIGMA
    assert labeling.peaks == {"threshold": node.POINTS.THRESHOLD, "kernel": 5, "top_k": 17}
    assert (labeling.pixel_confidence, labeling.image_confidence) == (0.8, node.MASKS.IMAGE_CONFIDENCE)
    assert labeling.contrastive["max_queries"] == 99
    (labeled,) = run(labeling, sample())
    assert labeled["contrastive"] == {}


def test_confidence_is_the_teachers_own_wherever_outlines_lie(tiny_cfg: CfgNode) -> None:
    """Odds of 9, and of 3 at the outline, which become 1: 9 / 3 = 3."""
    tiny_cfg.DOMAIN_ADAPT.MASKS.MIN_CONFIDENCE, tiny_cfg.MODEL.SEM_SEG_HEAD.OUTLINE_PROBABILITY = 0.9, 0.75
    assert PseudoLabeler(tiny_cfg, Teacher(), print).min_confidence == pytest.approx(0.75)


@pytest.mark.parametrize("with_points", [True, False])
def test_masks_need_peaks_only_where_points_are_predicted(tiny_cfg: CfgNode, with_points: bool) -> None:
    tiny_cfg.DOMAIN_ADAPT.MASKS.REQUIRE_PEAK = True
    tiny_cfg.DOMAIN_ADAPT.USE_POINT_PSEUDO_LABELS = with_points
    assert PseudoLabeler(tiny_cfg, Teacher(), print).require_peak == with_points


def test_the_loader_labels_targets_and_passes_sources_on() -> None:
    source = {"domain": "source", "image": torch.zeros(1, *SIZE)}
    loader = PseudoLabelLoader([([source], []), ([source, source], [sample()])], labeler(Teacher()))
    burn_in, adaptation = loader
    assert burn_in == [source]
    assert [x["domain"] for x in adaptation] == ["source", "source", "target"]
    assert adaptation[0] is source
    assert "mask" in adaptation[2]


def test_the_log_says_what_the_teacher_said() -> None:
    """On the mean of the two images: 2 and 3 pseudo points, 1 / 4 of the pixels confident, half of them foreground."""
    probability = np.full(SIZE, 0.6, np.float32)
    probability[:12] = 0.4
    probability[6:12] = 0.01
    logged: dict[str, Tensor] = {}
    labeler(Teacher(probability=probability), put_metrics=logged.update, recall_period=1, iteration=lambda: 0)(
        [sample(), sample(NONE)]
    )
    assert logged == {
        "pseudo/points": 2.5,
        "pseudo/confident_pixels": pytest.approx(0.25),
        "pseudo/foreground": pytest.approx(0.5),
        "pseudo/sparse_recall": 0,  # the probability at the sparse point is 0.01
    }


# ---- masks that need a peak


def regions_of(*boxes: tuple[slice, slice]) -> Tensor:
    regions = torch.zeros(SIZE, dtype=torch.uint8)
    for number, box in enumerate(boxes, start=1):
        regions[box] = number
    return regions


def test_only_components_with_a_peak_a_point_or_at_the_border_stay() -> None:
    """Five components: with a peak, with the sparse point, at the border; two others go."""
    probability = np.full(SIZE, 0.01, np.float32)
    kept = (slice(3, 8), slice(18, 23)), (slice(5, 9), slice(2, 8)), (slice(10, 14), slice(28, 32))
    gone = (slice(12, 16), slice(4, 9)), (slice(19, 22), slice(20, 26))
    for box in (*kept, *gone):
        probability[box] = 0.99
    teacher = Teacher(CENTERS[1:2], probability)
    (labeled,) = run(labeler(teacher, require_peak=True), sample())
    assert labeled["mask"].bool().equal(regions_of(*kept).bool())
    assert labeled["pixel_valid"].all()
    (plain,) = run(labeler(teacher), sample())
    assert plain["mask"].bool().equal(regions_of(*kept, *gone).bool())


def test_the_mask_is_prompted_with_peaks_only_where_asked_for() -> None:
    """Sparse points always prompt it."""
    for with_peaks in (True, False):
        teacher = Teacher()
        run(labeler(teacher, prompt_with_peaks=with_peaks), sample())
        (of_mask,) = [p for p, heads in zip(teacher.prompts, teacher.decoded, strict=True) if heads == ("mask",)]
        expected = np.concatenate([SPARSE, CENTERS[1:]]) if with_peaks else SPARSE
        assert as_set(of_mask[0]) == as_set(expected)


def test_components_of_which_the_teacher_is_nowhere_sure_are_background() -> None:
    """Four components: one with a sure pixel, one with the sparse point, one at the border; the last goes."""
    probability = np.full(SIZE, 0.01, np.float32)
    kept = (slice(3, 8), slice(18, 23)), (slice(5, 9), slice(2, 8)), (slice(10, 14), slice(28, 32))
    gone = (slice(12, 16), slice(4, 9))
    for box in (*kept, gone):
        probability[box] = 0.8
    probability[4, 20] = 0.95
    teacher = Teacher(CENTERS[1:2], probability)
    (labeled,) = run(labeler(teacher, min_confidence=0.9), sample())
    assert labeled["mask"].bool().equal(regions_of(*kept).bool())
    assert labeled["pixel_valid"].all()


def test_recall_is_measured_without_prompts_now_and_then() -> None:
    teacher = Teacher()
    labeling = labeler(teacher, recall_period=3, iteration=iter(range(9, 13)).__next__)
    for _ in range(4):
        labeling([sample()])
    passes = [prompts for prompts, heads in zip(teacher.prompts, teacher.decoded, strict=True) if heads == ("mask",)]
    assert [len(p[0]) for p in passes] == [0, 3, 3, 3, 0, 3]


# ---- clicks as supervision


def test_negative_clicks_prompt_the_teacher_and_suppress_peaks() -> None:
    """The teacher's second center has a negative click beside it."""
    teacher = Teacher()
    near = CENTERS[1:2] + np.float32(1)
    (labeled,) = run(labeler(teacher), sample(negative=near))
    assert as_set(labeled["points"]) == as_set(np.concatenate([SPARSE, CENTERS[2:]]))
    assert [*near[0].tolist(), float(NEGATIVE)] in teacher.clicks[1][0]
    assert [label for *_, label in teacher.clicks[1][0]].count(NEGATIVE) == 1


@pytest.mark.parametrize("move", [NoOpTransform(), RightAngle(1, True, *SIZE)], ids=["as it is", "turned and flipped"])
def test_pixels_near_clicks_are_certain(move: Transform) -> None:
    """A teacher that sees background everywhere, and one that sees foreground everywhere."""
    negative = np.array([[20.5, 20.5]], np.float32)
    rows, cols = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5

    def distance(points: np.ndarray) -> np.ndarray:
        (x, y), *_ = points
        return move.apply_segmentation(np.hypot(cols - x, rows - y).astype(np.float32))

    near, around, wrong = distance(SPARSE) <= 3, distance(SPARSE) <= 6, distance(negative) <= 3
    for probability in (0.01, 0.99):
        teacher = Teacher(NONE, probability)
        (labeled,) = run(labeler(teacher, supervision_radius=3.0), sample(move=move, negative=negative))
        assert np.array_equal(labeled["mask"].numpy() > 0, near if probability < 0.5 else ~wrong)
        ignored = around & ~near if probability < 0.5 else np.zeros_like(near)
        assert np.array_equal(labeled["pixel_valid"].numpy(), ~ignored)


def test_without_a_radius_the_teacher_s_mask_stays() -> None:
    (labeled,) = run(labeler(Teacher(NONE, 0.01)), sample())
    assert not labeled["mask"].any()
