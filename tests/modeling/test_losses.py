"""The three losses on cases that fit on a napkin, and on images where nothing counts."""

from __future__ import annotations

import math

from prompt_das.modeling.losses import center, contrastive_loss, detection_loss, dice_loss, segmentation_loss

import pytest
import torch
from torch import Tensor

LOG2 = math.log(2)  # the cross-entropy of logit 0, whatever the target


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


# ---- segmentation


def test_cross_entropy_by_hand() -> None:
    logits = torch.tensor([[[logit(0.8), logit(0.8)], [0.0, logit(0.1)]]])
    target = torch.tensor([[[1, 0], [1, 0]]])
    # -log of the probability given to the true class: of 0.8, 0.2, 0.5 and 0.9
    expected = -(math.log(0.8) + math.log(0.2) + math.log(0.5) + math.log(0.9)) / 4
    assert segmentation_loss(logits, target).item() == pytest.approx(expected)


def test_pixels_that_the_teacher_is_unsure_of_are_not_seen() -> None:
    logits = torch.tensor([[[0.0, 100.0], [-100.0, 7.0]]])
    target = torch.tensor([[[1, 0], [1, 1]]])
    only_the_first = torch.tensor([[[True, False], [False, False]]])
    assert segmentation_loss(logits, target, only_the_first).item() == pytest.approx(LOG2)


def test_every_image_counts_alike_however_many_of_its_pixels_do() -> None:
    """Images of loss log 2 (four pixels) and 100 (one pixel): 100 / 2 + log 2 / 2, not (100 + 4 log 2) / 5."""
    logits = torch.tensor([[[0.0, 0.0], [0.0, 0.0]], [[-100.0, 0.0], [0.0, 0.0]]])
    target = torch.ones(2, 2, 2)
    valid = torch.ones(2, 2, 2, dtype=torch.bool)
    valid[1] = torch.tensor([[True, False], [False, False]])
    assert segmentation_loss(logits, target, valid).item() == pytest.approx((100 + LOG2) / 2)


def test_the_weight_of_an_image_scales_its_term_and_nothing_else() -> None:
    logits, target = torch.zeros(2, 3, 3), torch.ones(2, 3, 3)
    valid = torch.ones(2, 3, 3, dtype=torch.bool)
    weight = torch.tensor([0.5, 0.0])
    # (0.5 log 2 + 0 log 2) / 2 images: weights are not normalized, an unsure batch teaches little
    assert segmentation_loss(logits, target, valid, weight).item() == pytest.approx(0.25 * LOG2)


def test_an_image_without_a_confident_pixel_adds_zero_and_no_gradient() -> None:
    logits = torch.randn(2, 4, 4, requires_grad=True)
    valid = torch.stack([torch.zeros(4, 4, dtype=torch.bool), torch.ones(4, 4, dtype=torch.bool)])
    loss = segmentation_loss(logits, torch.ones(2, 4, 4), valid)
    assert loss.item() == pytest.approx(segmentation_loss(logits[1:], torch.ones(1, 4, 4)).item() / 2)
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad[0] == 0).all()
    assert (logits.grad[1] != 0).all()


def test_nothing_confident_at_all_is_zero_not_nan() -> None:
    logits = torch.randn(2, 4, 4, requires_grad=True)
    loss = segmentation_loss(logits, torch.ones(2, 4, 4), torch.zeros(2, 4, 4, dtype=torch.bool), torch.zeros(2))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_logits_of_any_size_have_finite_losses_and_gradients() -> None:
    logits = torch.tensor([[[1e4, -1e4, 0.0]]], requires_grad=True)
    loss = segmentation_loss(logits, torch.tensor([[[0, 1, 1]]]))
    loss.backward()
    assert loss.item() == pytest.approx((2e4 + LOG2) / 3)
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_bfloat16_logits_are_compared_in_float32() -> None:
    logits = torch.full((1, 100, 100), 0.125, dtype=torch.bfloat16)
    assert segmentation_loss(logits, torch.zeros(1, 100, 100)).item() == pytest.approx(math.log1p(math.exp(0.125)))


# ---- Dice


def test_dice_by_hand() -> None:
    logits = torch.tensor([[[logit(0.8), logit(0.4)], [0.0, logit(0.1)]]])
    target = torch.tensor([[[1, 0], [1, 0]]])
    assert dice_loss(logits, target).item() == pytest.approx(1 - (2 * 1.3 + 1) / (1.8 + 2 + 1))


def test_an_image_without_foreground_does_not_decide_the_dice_loss() -> None:
    """Perfect on one image and on an empty one: no loss, where the mean of each image's own would be about 1/2."""
    sure = torch.tensor([[[50.0, -50.0]], [[-50.0, -50.0]]])
    assert dice_loss(sure, torch.tensor([[[1, 0]], [[0, 0]]])).item() == pytest.approx(0, abs=1e-6)


def test_dice_counts_confident_pixels_and_weighs_images() -> None:
    logits, target = torch.zeros(2, 1, 2), torch.tensor([[[1, 1]], [[0, 1]]])
    valid = torch.tensor([[[True, False]], [[True, True]]])
    # Overlap 0.5 + 0.5 w, sum of both 1.5 + 2 w, for the weight w of the second image.
    for weight in (1.0, 0.0):
        loss = dice_loss(logits, target, valid, torch.tensor([1.0, weight]))
        assert loss.item() == pytest.approx(1 - (2 * (0.5 + 0.5 * weight) + 1) / (1.5 + 2 * weight + 1))


# ---- detection


def test_the_squared_error_of_densities_is_averaged_over_pixels_and_images() -> None:
    density = torch.tensor([[[0.5, 1.0]], [[0.0, -1.0]]], requires_grad=True)
    target = torch.tensor([[[0.0, 1.0]], [[0.0, 1.0]]])
    loss = detection_loss(density, target)
    assert loss.item() == pytest.approx((0.5**2 + 0 + 0 + 2**2) / 4)
    loss.backward()
    assert density.grad is not None
    assert density.grad.flatten().tolist() == pytest.approx([2 * 0.5 / 4, 0, 0, 2 * -2 / 4])


def test_ignored_densities_are_not_compared_and_images_count_alike() -> None:
    """Errors 4 (one pixel known), 1 and 9 (both known), and an image of which nothing is known: (4 + 5 + 0) / 3."""
    density = torch.tensor([[[2.0, 50.0]], [[1.0, 3.0]], [[7.0, 7.0]]], requires_grad=True)
    known = torch.tensor([[[True, False]], [[True, True]], [[False, False]]])
    loss = detection_loss(density, torch.zeros(3, 1, 2), known)
    assert loss.item() == pytest.approx((4 + (1 + 9) / 2 + 0) / 3)
    loss.backward()
    assert density.grad is not None
    assert ((density.grad != 0) == known).all()


def test_nothing_known_at_all_is_zero_not_nan() -> None:
    assert detection_loss(torch.randn(2, 3, 3), torch.zeros(2, 3, 3), torch.zeros(2, 3, 3).bool()).item() == 0


# ---- contrastive

EAST, NORTH, WEST = [2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]  # their cosines: 0, -1; lengths do not matter


def embeddings(*images: list[list[float]]) -> tuple[Tensor, Tensor]:
    """(B, P, 2) embeddings and their validity, padded with rubbish."""
    longest = max(map(len, images))
    padding = [[1e3, -1e3]]
    values = torch.tensor([list(image) + padding * (longest - len(image)) for image in images]).view(-1, longest, 2)
    valid = torch.tensor([[i < len(image) for i in range(longest)] for image in images]).view(-1, longest)
    return values, valid


def test_info_nce_by_hand() -> None:
    """A query that points east, the prompt as well, negatives north and west, temperature 0.5.

    exp(1 / 0.5) = e^2 for the prompt, e^0 and e^-2 for the negatives: -log(e^2 / (e^2 + 1 + e^-2)).
    """
    loss = contrastive_loss(*embeddings([EAST]), *embeddings([EAST]), *embeddings([NORTH, WEST]), 0.5)
    assert loss.item() == pytest.approx(math.log(math.exp(2) + 1 + math.exp(-2)) - 2)


def test_the_temperature_divides_every_cosine() -> None:
    loss = contrastive_loss(*embeddings([EAST]), *embeddings([NORTH]), *embeddings([NORTH]), 0.25)
    assert loss.item() == pytest.approx(math.log(math.exp(0) + math.exp(4)))


def test_the_prompts_are_averaged_before_they_are_compared() -> None:
    """The mean of (2, 0) and (0, 2) points north-east, so the query in the east has a cosine of 1 / sqrt 2 with it."""
    loss = contrastive_loss(*embeddings([EAST, [0.0, 2.0]]), *embeddings([EAST]), *embeddings([WEST]), 1.0)
    positive = math.exp(1 / math.sqrt(2))
    assert loss.item() == pytest.approx(-math.log(positive / (positive + math.exp(-1))), rel=1e-5)


def test_queries_are_averaged_within_an_image_and_images_within_a_batch() -> None:
    easy = math.log(1 + math.exp(-4))  # the query is the prompt, the negative its opposite: -log(e^2 / (e^2 + e^-2))
    hard = math.log(1 + math.exp(4))  # the other way round
    loss = contrastive_loss(
        *embeddings([EAST], [EAST]), *embeddings([EAST, WEST], [EAST]), *embeddings([WEST], [WEST]), 0.5
    )
    assert loss.item() == pytest.approx(((easy + hard) / 2 + easy) / 2, rel=1e-5)


@pytest.mark.parametrize(
    ("positives", "queries", "negatives"),
    [([], [EAST], [WEST]), ([EAST], [], [WEST]), ([EAST], [EAST], []), ([], [], [])],
    ids=["no prompt", "no query", "no negative", "nothing"],
)
def test_an_incomplete_image_adds_zero(
    positives: list[list[float]], queries: list[list[float]], negatives: list[list[float]]
) -> None:
    """Beside it an image of loss log 2, which is halved: the mean is over all images of the batch."""
    groups = [embeddings(group, [NORTH]) for group in (positives, queries, negatives)]
    for values, _ in groups:
        values.requires_grad_()
    loss = contrastive_loss(*(x for group in groups for x in group))
    assert loss.item() == pytest.approx(LOG2 / 2)
    loss.backward()
    asked = groups[1][0].grad
    assert asked is not None
    assert asked.isfinite().all()
    assert (asked[0] == 0).all()


def test_padding_changes_no_loss() -> None:
    """Two images with different numbers of everything, padded with rubbish, are the mean of each by itself."""
    positives, queries = [[EAST, NORTH], [WEST]], [[NORTH], [EAST, NORTH, WEST]]
    negatives = [[WEST], [NORTH, EAST]]
    batch = contrastive_loss(*embeddings(*positives), *embeddings(*queries), *embeddings(*negatives))
    alone = [
        contrastive_loss(*embeddings(p), *embeddings(q), *embeddings(n))
        for p, q, n in zip(positives, queries, negatives, strict=True)
    ]
    assert alone[0] != alone[1]
    torch.testing.assert_close(batch, (alone[0] + alone[1]) / 2)


@pytest.mark.parametrize("counts", [(0, 0, 0), (0, 3, 3), (3, 0, 3), (3, 3, 0)], ids=str)
def test_a_batch_without_any_valid_entry_is_zero_not_nan(counts: tuple[int, int, int]) -> None:
    """Nothing is padded here: the tensors themselves are empty."""
    groups = [torch.randn(2, n, 4, requires_grad=True) for n in counts]
    loss = contrastive_loss(*(x for g in groups for x in (g, torch.ones(g.shape[:2], dtype=torch.bool))))
    loss.backward()
    assert loss.item() == 0


def test_only_queries_are_moved() -> None:
    """The mean prompt and the negatives are where the queries are drawn to and pushed from: targets, not variables."""
    positives, queries, negatives = (torch.randn(2, n, 8, requires_grad=True) for n in (3, 4, 5))
    valid = [torch.ones(2, n, dtype=torch.bool) for n in (3, 4, 5)]
    contrastive_loss(positives, valid[0], queries, valid[1], negatives, valid[2]).backward()
    assert queries.grad is not None
    assert (queries.grad.abs().sum(-1) > 0).all()
    assert positives.grad is None
    assert negatives.grad is None


def test_a_step_against_the_gradient_turns_the_query_to_the_prompt() -> None:
    query = torch.tensor([[NORTH]], requires_grad=True)
    ones = torch.ones(1, 1, dtype=torch.bool)
    contrastive_loss(torch.tensor([[EAST]]), ones, query, ones, torch.tensor([[WEST]]), ones).backward()
    assert query.grad is not None
    assert query.grad[0, 0, 0] < 0  # further east


def test_embeddings_of_length_zero_have_finite_losses_and_gradients() -> None:
    queries = torch.zeros(1, 2, 4, requires_grad=True)
    ones = torch.ones(1, 2, dtype=torch.bool)
    loss = contrastive_loss(torch.zeros(1, 2, 4), ones, queries, ones, torch.zeros(1, 2, 4), ones)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(3))  # all cosines are 0: one prompt against two negatives
    assert queries.grad is not None
    assert queries.grad.isfinite().all()


def test_centered_embeddings_have_mean_zero_without_padding() -> None:
    values = torch.tensor([[[1.0, 5.0], [3.0, 5.0]], [[5.0, 8.0], [99.0, 99.0]]])
    valid = torch.tensor([[True, True], [True, False]])
    expected = torch.tensor([[[-2.0, -1.0], [0.0, -1.0]], [[2.0, 2.0], [96.0, 93.0]]])
    torch.testing.assert_close(center(values, valid), expected)
