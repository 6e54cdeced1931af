"""The decoder: who sees whom, and that batches, padding and the order of prompts make no difference."""

from __future__ import annotations

from prompt_das.modeling.decoder import MLP, ChannelLayerNorm, DecoderOutput, PromptDecoder, attention_masks

import pytest
import torch
from torch import Tensor, nn

DIM = 32
GRID = (3, 4)


@pytest.fixture
def decoder() -> PromptDecoder:
    return PromptDecoder(dim=DIM, depth=2, num_heads=2, mlp_dim=64, attention_downsample_rate=2).eval()


@pytest.fixture
def image() -> Tensor:
    return torch.randn(2, DIM, *GRID)


@pytest.fixture
def image_pe() -> Tensor:
    return torch.randn(DIM, *GRID)


def all_valid(tokens: Tensor) -> Tensor:
    return torch.ones(tokens.shape[:2], dtype=torch.bool)


def assert_same_heads(a: DecoderOutput, b: DecoderOutput) -> None:
    """Nothing that a head reads differs."""
    torch.testing.assert_close(a.mask_token, b.mask_token)
    torch.testing.assert_close(a.features, b.features)


def distance(a: DecoderOutput, b: DecoderOutput) -> float:
    return min((a.mask_token - b.mask_token).abs().max().item(), (a.features - b.features).abs().max().item())


# ---- attention masks


def test_who_is_seen() -> None:
    """The mask token and valid prompts; valid contrastive tokens. A row of False would make the softmax NaN."""
    prompts, contrastive = attention_masks(
        torch.tensor([[True, False], [False, False]]), torch.tensor([[True, False, True], [False, False, False]])
    )
    assert prompts.tolist() == [[[True, True, False]], [[True, False, False]]]
    assert contrastive.tolist() == [[[True, False, True]], [[True, True, True]]]


def test_there_may_be_nothing_but_the_mask_token() -> None:
    prompts, contrastive = attention_masks(torch.zeros(2, 0).bool(), torch.zeros(2, 0).bool())
    assert prompts.tolist() == [[[True]], [[True]]]
    assert contrastive.shape == (2, 1, 0)


# ---- contrastive tokens


def test_contrastive_tokens_change_nothing_that_a_head_reads(
    decoder: PromptDecoder, image: Tensor, image_pe: Tensor
) -> None:
    prompts, contrastive = torch.randn(2, 3, DIM), torch.randn(2, 5, DIM)
    with torch.no_grad():
        without = decoder(image, image_pe, prompts, all_valid(prompts))
        with_them = decoder(image, image_pe, prompts, all_valid(prompts), contrastive, all_valid(contrastive))
        others = decoder(image, image_pe, prompts, all_valid(prompts), 9 * contrastive, all_valid(contrastive))
    assert_same_heads(with_them, without)
    assert torch.equal(with_them.features, others.features)  # of equal shape, they are equal to the bit
    assert torch.equal(with_them.mask_token, others.mask_token)
    assert without.contrastive.shape == (2, 0, DIM)
    assert with_them.contrastive.shape == (2, 5, DIM)
    assert not torch.allclose(with_them.contrastive, others.contrastive)


def test_the_losses_of_the_heads_give_contrastive_tokens_no_gradient(
    decoder: PromptDecoder, image: Tensor, image_pe: Tensor
) -> None:
    prompts, contrastive = torch.randn(2, 3, DIM), torch.randn(2, 5, DIM, requires_grad=True)
    out = decoder(image, image_pe, prompts, all_valid(prompts), contrastive, all_valid(contrastive))
    heads = out.features.sum() + out.mask_token.sum()
    assert torch.autograd.grad(heads, contrastive, retain_graph=True, allow_unused=True) == (None,)
    (embeddings,) = torch.autograd.grad(out.contrastive.sum(), contrastive)
    assert (embeddings.abs().sum(-1) > 0).all()


def test_contrastive_tokens_do_not_see_the_prompts(image: Tensor, image_pe: Tensor) -> None:
    """With one block they are the same, to the bit, whatever the prompts are, but for the last attention.

    From there on they meet what the image has taken from the prompts: it looks at them in between.
    """
    decoder = PromptDecoder(dim=DIM, depth=1, num_heads=2, mlp_dim=64, attention_downsample_rate=2).eval()
    torch.nn.init.zeros_(decoder.transformer.final_attn_token_to_image.out_proj.weight)
    prompts, contrastive = torch.randn(2, 3, DIM), torch.randn(2, 5, DIM)
    with torch.no_grad():
        before, after = (
            decoder(image, image_pe, clicked, all_valid(prompts), contrastive, all_valid(contrastive))
            for clicked in (prompts, 9 * prompts)
        )
    assert torch.equal(before.contrastive, after.contrastive)
    assert not torch.allclose(before.mask_token, after.mask_token)


def test_contrastive_tokens_may_belong_to_the_last_images_only(
    decoder: PromptDecoder, image: Tensor, image_pe: Tensor
) -> None:
    prompts, contrastive = torch.randn(2, 3, DIM), torch.randn(2, 5, DIM)
    with torch.no_grad():
        all_images = decoder(image, image_pe, prompts, all_valid(prompts), contrastive, all_valid(contrastive))
        last = decoder(image, image_pe, prompts, all_valid(prompts), contrastive[1:], all_valid(contrastive[1:]))
    assert last.contrastive.shape == (1, 5, DIM)
    torch.testing.assert_close(last.contrastive[0], all_images.contrastive[1])
    assert torch.equal(last.features, all_images.features)


def test_padded_contrastive_tokens_change_no_embedding(decoder: PromptDecoder, image: Tensor, image_pe: Tensor) -> None:
    prompts, contrastive = torch.randn(2, 1, DIM), torch.randn(2, 5, DIM)
    valid = all_valid(contrastive)
    valid[:, 3:] = False
    with torch.no_grad():
        padded = decoder(image, image_pe, prompts, all_valid(prompts), contrastive, valid)
        alone = decoder(image, image_pe, prompts, all_valid(prompts), contrastive[:, :3], valid[:, :3])
    torch.testing.assert_close(padded.contrastive[:, :3], alone.contrastive)


# ---- prompts


def test_the_order_of_prompts_makes_no_difference(decoder: PromptDecoder, image: Tensor, image_pe: Tensor) -> None:
    prompts = torch.randn(2, 4, DIM)
    with torch.no_grad():
        there = decoder(image, image_pe, prompts, all_valid(prompts))
        back = decoder(image, image_pe, prompts.flip(1), all_valid(prompts))
    assert_same_heads(there, back)


def test_padding_makes_no_difference_wherever_it_stands(
    decoder: PromptDecoder, image: Tensor, image_pe: Tensor
) -> None:
    prompts = torch.randn(2, 2, DIM)
    rubbish = 1e3 * torch.randn(2, 1, DIM)
    padded = torch.cat([rubbish, prompts[:, :1], rubbish, prompts[:, 1:], rubbish], dim=1)
    valid = torch.tensor([[False, True, False, True, False]]).expand(2, -1)
    with torch.no_grad():
        assert_same_heads(
            decoder(image, image_pe, padded, valid), decoder(image, image_pe, prompts, all_valid(prompts))
        )


def test_a_batch_is_its_images_one_by_one(decoder: PromptDecoder, image_pe: Tensor) -> None:
    """With three, one and no prompt, and as many contrastive tokens the other way round."""
    counts = [3, 1, 0]
    image, prompts, contrastive = torch.randn(3, DIM, *GRID), torch.randn(3, 3, DIM), torch.randn(3, 3, DIM)
    prompt_valid = torch.arange(3) < torch.tensor(counts)[:, None]
    contrastive_valid = torch.arange(3) < torch.tensor(counts[::-1])[:, None]
    with torch.no_grad():
        batch = decoder(image, image_pe, prompts, prompt_valid, contrastive, contrastive_valid)
        for i, (n, m) in enumerate(zip(counts, counts[::-1], strict=True)):
            p, c = prompts[i : i + 1, :n], contrastive[i : i + 1, :m]
            one = decoder(image[i : i + 1], image_pe, p, all_valid(p), c, all_valid(c))
            torch.testing.assert_close(one.mask_token[0], batch.mask_token[i])
            torch.testing.assert_close(one.features[0], batch.features[i])
            torch.testing.assert_close(one.contrastive[0], batch.contrastive[i, :m])


def test_a_prompt_makes_a_difference_and_so_does_another_one(
    decoder: PromptDecoder, image: Tensor, image_pe: Tensor
) -> None:
    prompts = torch.randn(2, 1, DIM)
    with torch.no_grad():
        none = decoder(image, image_pe, prompts[:, :0], all_valid(prompts)[:, :0])
        one = decoder(image, image_pe, prompts, all_valid(prompts))
        other = decoder(image, image_pe, -prompts, all_valid(prompts))
    assert distance(none, one) > 1e-3
    assert distance(one, other) > 1e-3


# ---- what comes out


@pytest.mark.parametrize("grid", [(1, 1), (2, 5), (6, 3)])
def test_shapes(decoder: PromptDecoder, grid: tuple[int, int]) -> None:
    height, width = grid
    out = decoder(torch.randn(2, DIM, *grid), torch.randn(DIM, *grid), torch.zeros(2, 0, DIM), torch.zeros(2, 0).bool())
    assert out.mask_token.shape == (2, DIM)
    assert out.features.shape == (2, DIM // 8, 4 * height, 4 * width)
    assert out.contrastive.shape == (2, 0, DIM)


def test_features_lie_where_the_image_has_them(decoder: PromptDecoder, image: Tensor, image_pe: Tensor) -> None:
    """Nothing shifts or transposes: patch (1, 2) becomes rows 4-7 and columns 8-11, and changes most if it changes."""
    other = image.clone()
    other[:, :, 1, 2] *= -5
    prompts = torch.zeros(2, 0, DIM)
    with torch.no_grad():
        before, after = (decoder(x, image_pe, prompts, all_valid(prompts)).features for x in (image, other))
    change = (after - before).abs().mean((0, 1))
    assert change.shape == (12, 16)
    patch = change[4:8, 8:12].clone()
    change[4:8, 8:12] = 0
    assert patch.min() > change.max()


def test_channel_layer_norm_by_hand() -> None:
    """Each pixel's own channels, 1 and 3 here, have mean 0 and variance 1 afterwards."""
    norm = ChannelLayerNorm(2, eps=1e-6)
    x = torch.tensor([1.0, 3.0]).view(1, 2, 1, 1).expand(1, 2, 2, 3)
    torch.testing.assert_close(norm(x), torch.tensor([-1.0, 1.0]).view(1, 2, 1, 1).expand(1, 2, 2, 3))


def test_an_mlp_has_relu_between_its_layers_and_none_at_the_end() -> None:
    kinds = [type(layer) for layer in MLP(3, 4, 5, 3)]
    assert kinds == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    assert [tuple(layer.weight.shape) for layer in MLP(3, 4, 5, 3) if isinstance(layer, nn.Linear)] == [
        (4, 3),
        (4, 4),
        (5, 4),
    ]
