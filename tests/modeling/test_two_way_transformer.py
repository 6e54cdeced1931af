"""The two-way transformer: attention, its masks, and what the blocks do with them."""

from __future__ import annotations

import math

from prompt_das.modeling.two_way_transformer import (
    Attention,
    TwoWayBlock,
    TwoWayTransformer,
    scaled_dot_product_attention,
)

import pytest
import torch
from torch import Tensor

DIM, HEADS = 16, 2


@pytest.fixture
def block() -> TwoWayBlock:
    return TwoWayBlock(DIM, HEADS, 32).eval()


def random_inputs(tokens: int = 4, height: int = 3, width: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """tokens (2, T, D), image (2, K, D) and its positional part (1, K, D)."""
    positions = height * width
    return torch.randn(2, tokens, DIM), torch.randn(2, positions, DIM), torch.randn(1, positions, DIM)


def test_attention_by_hand() -> None:
    """One head of width 1, all projections the identity: softmax of q k, then the mean of v with these weights."""
    attention = Attention(1, 1, downsample_rate=1)
    for layer in (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj):
        torch.nn.init.ones_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    q, k, v = torch.tensor([[[1.0]]]), torch.tensor([[[0.0], [math.log(3)]]]), torch.tensor([[[4.0], [8.0]]])
    assert attention(q, k, v).item() == pytest.approx((1 * 4 + 3 * 8) / 4)
    only_the_first = torch.tensor([[[True, False]]])
    assert attention(q, k, v, only_the_first).item() == pytest.approx(4)


def test_heads_attend_within_their_own_channels() -> None:
    """Two heads see the two halves of the width: each of them picks the key that fits its own half."""
    attention = Attention(4, 2, downsample_rate=1)
    for layer in (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj):
        torch.nn.init.eye_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    q = torch.tensor([[[100.0, 0.0, 100.0, 0.0]]])
    k = torch.tensor([[[1.0, 0.0, -1.0, 0.0], [-1.0, 0.0, 1.0, 0.0]]])
    v = torch.tensor([[[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]])
    assert attention(q, k, v).flatten().tolist() == pytest.approx([1, 2, 7, 8])


def test_attention_on_a_cpu_trains_in_float32_and_predicts_in_bfloat16() -> None:
    """Torch's backward pass of bfloat16 attention takes three times as long there."""
    q, k, v = (torch.randn(2, 2, 5, 4).bfloat16() for _ in range(3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert scaled_dot_product_attention(q, k, v, None).dtype == torch.bfloat16
        trained = scaled_dot_product_attention(q.requires_grad_(), k, v, None)
    weights = (q.float() @ k.float().transpose(2, 3) / 2).softmax(-1)
    torch.testing.assert_close(trained, weights @ v.float(), rtol=1e-5, atol=1e-6)


def test_all_attentions_work_at_half_width() -> None:
    """Self-attention too, unlike Segment Anything's own decoder."""
    transformer = TwoWayTransformer(DIM, depth=2, num_heads=HEADS, mlp_dim=32)
    attentions = [m for m in transformer.modules() if isinstance(m, Attention)]
    assert len(attentions) == 2 * 3 + 1
    for attention in attentions:
        assert attention.q_proj.weight.shape == (DIM // 2, DIM)
        assert attention.out_proj.weight.shape == (DIM, DIM // 2)


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"16 / 2 = 8 is not divisible by 3 heads; change MODEL.DECODER.NUM_HEADS"):
        Attention(16, 3)


def test_a_token_that_is_masked_out_changes_nothing_but_itself(block: TwoWayBlock) -> None:
    tokens, image, image_pe = random_inputs()
    mask = torch.tensor([[[True, True, True, False]]]).expand(2, -1, -1)
    other = tokens.clone()
    other[:, 3] = torch.randn(2, DIM)
    with torch.no_grad():
        before, image_before = block(tokens, image, tokens, image_pe, mask)
        after, image_after = block(other, image, other, image_pe, mask)
    torch.testing.assert_close(after[:, :3], before[:, :3], rtol=0, atol=0)
    torch.testing.assert_close(image_after, image_before, rtol=0, atol=0)
    assert not torch.allclose(after[:, 3], before[:, 3])


def test_without_masks_all_tokens_attend_to_each_other_and_to_the_image(block: TwoWayBlock) -> None:
    tokens, image, image_pe = random_inputs()
    other = tokens.clone()
    other[:, 3] += 1
    with torch.no_grad():
        before, image_before = block(tokens, image, tokens, image_pe)
        after, image_after = block(other, image, other, image_pe)
    assert (after - before).abs().amax(-1).min() > 1e-4
    assert (image_after - image_before).abs().amax(-1).min() > 1e-4


def test_the_first_block_replaces_the_tokens() -> None:
    """As in Segment Anything: its self-attention replaces the tokens, so equal attention outputs give equal tokens.

    A token that sees only its neighbor becomes what the neighbor makes of itself, up to the positional part.
    """
    tokens, image, image_pe = random_inputs(tokens=2)
    sees_the_second = torch.tensor([[[False, True]]]).expand(2, -1, -1)
    no_position = torch.zeros_like(tokens)
    for replaces in (True, False):
        block = TwoWayBlock(DIM, HEADS, 32, skip_first_layer_pe=replaces).eval()
        with torch.no_grad():
            out, _ = block(tokens, image, no_position, image_pe, sees_the_second)
        assert torch.allclose(out[:, 0], out[:, 1], atol=1e-6) is replaces


def test_only_the_first_block_replaces() -> None:
    transformer = TwoWayTransformer(DIM, depth=3, num_heads=HEADS, mlp_dim=32)
    assert [layer.skip_first_layer_pe for layer in transformer.layers] == [True, False, False]


def test_image_positions_differ_by_their_encoding_alone() -> None:
    """A uniform image: with one encoding for all positions nothing can tell them apart, with several something does."""
    transformer = TwoWayTransformer(DIM, depth=2, num_heads=HEADS, mlp_dim=32).eval()
    tokens, image, image_pe = random_inputs()
    uniform = image[:, :1].expand_as(image)
    with torch.no_grad():
        _, (*_, same) = transformer(tokens, uniform, image_pe[:, :1].expand_as(image_pe))
        _, (*_, different) = transformer(tokens, uniform, image_pe)
    torch.testing.assert_close(same, same[:, :1].expand_as(same))
    assert (different[:, 1:] - different[:, :1]).abs().amax(-1).min() > 1e-4


def test_tokens_attend_to_the_image_by_its_encoding(block: TwoWayBlock) -> None:
    """In the blocks and in the last attention: what matters is the encoding of a piece of the image, not its rank."""
    last = TwoWayTransformer(DIM, depth=0, num_heads=HEADS, mlp_dim=32).eval()
    tokens, image, image_pe = random_inputs()
    for look in (
        lambda image, pe: block(tokens, image, tokens, pe)[0],
        lambda image, pe: last(tokens, image, pe)[0],
    ):
        with torch.no_grad():
            before = look(image, image_pe)
            torch.testing.assert_close(look(image.flip(1), image_pe.flip(1)), before)
            assert (look(image, image_pe.flip(1)) - before).abs().max() > 1e-4


def test_tokens_attend_to_each_other_by_their_encoding(block: TwoWayBlock) -> None:
    """Self-attention of a later block adds the positional part to queries and keys; here nothing else reads it."""
    tokens, image, image_pe = random_inputs()
    torch.nn.init.zeros_(block.cross_attn_token_to_image.out_proj.weight)
    with torch.no_grad():
        before, _ = block(tokens, image, tokens, image_pe)
        after, _ = block(tokens, image, tokens.flip(1), image_pe)
    assert (after - before).abs().amax(-1).min() > 1e-4


@pytest.mark.parametrize("positions", [(1, 1), (3, 5), (7, 2)])
def test_shapes(positions: tuple[int, int]) -> None:
    transformer = TwoWayTransformer(DIM, depth=2, num_heads=HEADS, mlp_dim=32)
    tokens, image, image_pe = random_inputs(5, *positions)
    out_tokens, images = transformer(tokens, image, image_pe)
    assert out_tokens.shape == tokens.shape
    assert [x.shape for x in images] == 3 * [image.shape]


# ---- readers


def test_readers_attend_to_the_last_images_before_and_after_those_attend_to_the_tokens() -> None:
    """One block by hand, with readers of the second image alone."""
    transformer = TwoWayTransformer(DIM, depth=1, num_heads=HEADS, mlp_dim=32).eval()
    (block,) = transformer.layers
    tokens, image, image_pe = random_inputs()
    readers = torch.randn(1, 3, DIM)
    with torch.no_grad():
        _, images = transformer(tokens, image, image_pe)
        expected = block.update_tokens(readers, image[1:], readers, image_pe)
        expected = transformer.final_attention(expected, images[-1][1:], readers, image_pe)
        torch.testing.assert_close(transformer.attend_read_only(readers, images, image_pe), expected)


def test_readers_do_not_attend_to_padding() -> None:
    transformer = TwoWayTransformer(DIM, depth=2, num_heads=HEADS, mlp_dim=32).eval()
    tokens, image, image_pe = random_inputs()
    readers = torch.randn(2, 3, DIM)
    mask = torch.tensor([[[True, True, False]]]).expand(2, -1, -1)
    with torch.no_grad():
        _, images = transformer(tokens, image, image_pe)
        padded = transformer.attend_read_only(readers, images, image_pe, mask)
        alone = transformer.attend_read_only(readers[:, :2], images, image_pe)
    torch.testing.assert_close(padded[:, :2], alone)
