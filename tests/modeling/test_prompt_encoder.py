"""Prompts become tokens: Fourier features of where they are, and nothing else."""

from __future__ import annotations

import math

from prompt_das.modeling.prompt_encoder import ClickPromptEncoder, PointPromptEncoder

import pytest
import torch

DIM = 8


@pytest.fixture
def encoder() -> PointPromptEncoder:
    return PointPromptEncoder(dim=DIM)


def test_no_prompt_is_no_token(encoder: PointPromptEncoder) -> None:
    assert encoder(torch.zeros(2, 0, 2), (32, 32)).shape == (2, 0, DIM)


def test_features_by_hand() -> None:
    """Frequency 1 in x and 2 in y; the point lies at 3/4 of the width and 1/4 of the height: (0.5, -0.5) in [-1, 1].

    The phase is 2 pi (0.5 * 1 - 0.5 * 2) = -pi: sine 0, cosine -1.
    """
    encoder = PointPromptEncoder(dim=2)
    encoder.frequencies = torch.tensor([[1.0], [2.0]])
    token = encoder(torch.tensor([[[30.0, 5.0]]]), (20, 40))
    assert token.flatten().tolist() == pytest.approx([0, -1], abs=1e-6)
    other = encoder(torch.tensor([[[30.0, 10.0]]]), (20, 40))  # now y = 0: the phase is pi, its sine and cosine alike
    assert other.flatten().tolist() == pytest.approx([math.sin(math.pi), math.cos(math.pi)], abs=1e-6)
    quarter = encoder(torch.tensor([[[25.0, 10.0]]]), (20, 40))  # x = 0.25: the phase is pi / 2
    assert quarter.flatten().tolist() == pytest.approx([1, 0], abs=1e-6)


def test_a_point_at_a_patch_center_has_the_encoding_of_that_patch(encoder: PointPromptEncoder) -> None:
    """Prompts and image share one encoding, (x, y) there is (column, row) here; the grid need not be square."""
    grid = encoder.grid((3, 5))  # patches of 8 x 8 pixels in an image of 24 x 40
    assert grid.shape == (DIM, 3, 5)
    column, row = 4, 1
    token = encoder(torch.tensor([[[8 * column + 4.0, 8 * row + 4.0]]]), (24, 40))
    torch.testing.assert_close(token[0, 0], grid[:, row, column])


def test_only_the_place_relative_to_the_image_counts(encoder: PointPromptEncoder) -> None:
    point = torch.tensor([[[3.5, 20.5]]])
    torch.testing.assert_close(encoder(point, (30, 60)), encoder(2 * point, (60, 120)))


def test_points_that_differ_have_tokens_that_differ(encoder: PointPromptEncoder) -> None:
    tokens = encoder(torch.tensor([[[3.5, 20.5], [20.5, 3.5], [4.5, 20.5]]]), (384, 384))[0]
    assert torch.pdist(tokens).min() > 1e-3


def test_nothing_is_learned_and_the_frequencies_are_saved(encoder: PointPromptEncoder) -> None:
    """Student, teacher and checkpoint must agree on the random frequencies."""
    assert not list(encoder.parameters())
    assert list(encoder.state_dict()) == ["frequencies"]
    other = PointPromptEncoder(dim=DIM)
    points = torch.rand(1, 3, 2)
    assert not torch.equal(other(points, (1, 1)), encoder(points, (1, 1)))
    other.load_state_dict(encoder.state_dict())
    assert torch.equal(other(points, (1, 1)), encoder(points, (1, 1)))


def test_the_scale_is_the_standard_deviation_of_the_frequencies() -> None:
    assert PointPromptEncoder(dim=8192, scale=3.0).frequencies.std().item() == pytest.approx(3.0, rel=0.05)


def test_half_precision_keeps_the_phase_in_float32(encoder: PointPromptEncoder) -> None:
    """A neighboring pixel changes the phase by less than bfloat16 can hold."""
    points = torch.tensor([[[380.5, 3.5], [381.5, 3.5]]])
    expected = encoder(points, (384, 384))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(encoder(points, (384, 384)), expected)


# ---- clicks


@pytest.fixture
def clicks() -> ClickPromptEncoder:
    return ClickPromptEncoder(dim=DIM, scale=1.0, patch_size=8, sigma=2.0)


VALID = torch.ones(1, 1, dtype=torch.bool)


def test_no_click_adds_nothing_to_the_image(clicks: ClickPromptEncoder) -> None:
    none = clicks.dense(torch.zeros(2, 0, 3), torch.zeros(2, 0, dtype=torch.bool), (32, 48), (4, 6))
    assert none.shape == (2, DIM, 4, 6)
    assert not none.any()
    padded = clicks.dense(torch.ones(1, 1, 3), ~VALID, (32, 48), (4, 6))
    assert not padded.any()


def test_a_click_is_added_at_its_place(clicks: ClickPromptEncoder) -> None:
    """A click at (20, 12) lies in the patch of row 1, column 2; patches that are far away stay as they are."""
    dense = clicks.dense(torch.tensor([[[20.0, 12.0, 1.0]]]), VALID, (64, 64), (8, 8))[0]
    strength = dense.abs().sum(0)
    assert strength.argmax() == 1 * 8 + 2
    assert strength[5:, 5:].max() < 1e-4 * strength.max()


def test_a_negative_click_is_another_one(clicks: ClickPromptEncoder) -> None:
    point = torch.tensor([[[20.0, 12.0, 1.0]]])
    negative = point * torch.tensor([1.0, 1.0, 0.0])
    dense = [clicks.dense(p, VALID, (64, 64), (8, 8)) for p in (point, negative)]
    assert not torch.allclose(*dense)
    torch.nn.init.normal_(clicks.label_embedding)
    tokens = [clicks(p, (64, 64)) - PointPromptEncoder.forward(clicks, p, (64, 64)) for p in (point, negative)]
    torch.testing.assert_close(torch.cat(tokens)[:, 0], clicks.label_embedding.flip(0))


def test_a_point_without_a_label_is_positive(clicks: ClickPromptEncoder) -> None:
    labeled = torch.tensor([[[20.0, 12.0, 1.0]]])
    for encode in (lambda p: clicks(p, (64, 64)), lambda p: clicks.dense(p, VALID, (64, 64), (8, 8))):
        torch.testing.assert_close(encode(labeled), encode(labeled[..., :2]))
