"""Prompt-DAS as a first research implementation computes it: one image, one point at a time.

Written from the description of the method, for the comparison only. The weights are those of a
:class:`~prompt_das.modeling.PromptDAS`, and linear layers, convolutions and norms are called as they are; everything
between them is computed anew, in the plainest way:

- attention makes the whole matrix softmax(q kᵀ / √d), in the encoder and in the decoder;
- the decoder and the heads take an image after the other, each with as many prompts as it has: nothing is padded;
- points are encoded, and densities rendered, point by point, each read from the device with ``.item()``;
- every pass runs the whole network: the encoder again for other prompts, the center-point head also where only the
  mask is read;
- the moving average is a loop over parameters, and AdamW runs one as well.

It is not the slowest of its kind: the encoder takes all images at once, and nothing leaves the device but coordinates.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from prompt_das.modeling import PromptDAS
from prompt_das.modeling.criterion import NEAR_A_POINT
from prompt_das.ops.points import find_peaks

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ImagePrediction(NamedTuple):
    """Output of the network for an image."""

    logits: Tensor  # (H, W)
    density: Tensor  # (H, W)
    contrastive: Tensor  # (M, D)


class OneImageAtATime:
    """The forward pass and the losses of a network, computed from its layers."""

    def __init__(self, network: PromptDAS) -> None:
        self.network: Any = network

    def predict(
        self, images: Tensor, prompts: list[Tensor], contrastive: list[Tensor] | None = None
    ) -> list[ImagePrediction]:
        """images (B, 1, H, W), and for each its prompts (N, 2) and its contrastive points (M, 2), any number."""
        contrastive = contrastive or [points[:0] for points in prompts]
        with self.network.autocast():
            embeddings = self.encode(images)
            return [
                self.decode(*image, (images.shape[-2], images.shape[-1]))
                for image in zip(embeddings, prompts, contrastive, strict=True)
            ]

    def encode(self, images: Tensor) -> Tensor:
        """The ViT: (B, 1, H, W) -> (B, D, h, w)."""
        vit = self.network.backbone.vit
        patches = vit.patch_embed.proj((images - self.network.pixel_mean) / self.network.pixel_std)
        x = patches.flatten(2).transpose(1, 2) + vit.pos_embed
        for block in vit.blocks:
            q, k, v = block.attn.qkv(block.norm1(x)).chunk(3, dim=-1)
            x = x + block.attn.proj(attention(q, k, v, block.attn.num_heads))
            x = x + block.mlp(block.norm2(x))
        return vit.norm(x).transpose(1, 2).reshape(patches.shape)

    def decode(self, embedding: Tensor, prompts: Tensor, contrastive: Tensor, size: tuple[int, int]) -> ImagePrediction:
        """The two-way transformer and both heads on one image: its embedding (D, h, w) and points (N, 2), (M, 2)."""
        decoder, (dim, h, w) = self.network.decoder, embedding.shape
        tokens = torch.cat(
            [decoder.mask_token, self.encode_points(prompts, size), self.encode_points(contrastive, size)]
        )
        seen = 1 + len(prompts)  # by the heads; contrastive tokens see one another
        is_for_heads = torch.arange(len(tokens), device=tokens.device) < seen
        among_tokens = is_for_heads[:, None] == is_for_heads[None]

        image, image_pe = embedding.flatten(1).T, self.encode_grid(h, w)
        token_pe = tokens
        for layer in decoder.transformer.layers:
            if layer.skip_first_layer_pe:  # the first
                tokens = attend(layer.self_attn, tokens, tokens, tokens, among_tokens)
            else:
                q = tokens + token_pe
                tokens = tokens + attend(layer.self_attn, q, q, tokens, among_tokens)
            tokens = layer.norm1(tokens)
            to_image = attend(layer.cross_attn_token_to_image, tokens + token_pe, image + image_pe, image)
            tokens = layer.norm2(tokens + to_image)
            tokens = layer.norm3(tokens + layer.mlp(tokens))
            keys, values = (tokens + token_pe)[:seen], tokens[:seen]
            image = layer.norm4(image + attend(layer.cross_attn_image_to_token, image + image_pe, keys, values))
        last = decoder.transformer
        attended = attend(last.final_attn_token_to_image, tokens + token_pe, image + image_pe, image)
        tokens = last.norm_final_attn(tokens + attended)

        features = decoder.upsampling(image.T.reshape(1, dim, h, w))
        kernel = self.network.segmentation_head.mlp(tokens[:1])
        logits = (kernel @ features[0].flatten(1)).reshape(1, 1, *features.shape[-2:]).float()
        logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)[0, 0]
        density = self.network.center_head(features)[0].float()
        return ImagePrediction(logits, density, decoder.contrastive_mlp(tokens[seen:]).float())

    def encode_points(self, points: Tensor, size: tuple[int, int]) -> Tensor:
        """(N, 2) points in pixels -> tokens (N, D)."""
        height, width = size
        frequencies = self.network.prompt_encoder.frequencies
        tokens = [torch.zeros(0, 2 * frequencies.shape[1], device=frequencies.device)]
        for point in points:
            x, y = point[0].item() / width, point[1].item() / height
            tokens.append(fourier(torch.tensor([[x, y]], device=frequencies.device), frequencies))
        return torch.cat(tokens)

    def encode_grid(self, h: int, w: int) -> Tensor:
        """The centers of the patches -> (h w, D)."""
        frequencies = self.network.prompt_encoder.frequencies
        y, x = torch.meshgrid((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w, indexing="ij")
        return fourier(torch.stack([x, y], dim=-1).reshape(-1, 2).to(frequencies.device), frequencies)

    def losses(self, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        """The losses of a training batch as :meth:`PromptDAS.losses` takes it, all of them switched on."""
        network: Any = self.network
        device = network.device
        images = torch.stack([x["image"] for x in batch]).to(device)
        size = (images.shape[-2], images.shape[-1])
        contrastive = [
            torch.cat(list(x["contrastive"].values())) if "contrastive" in x else torch.zeros(0, 2) for x in batch
        ]
        answers = self.predict(images, [x["prompts"] for x in batch], contrastive)

        terms: dict[str, list[Tensor]] = {}
        for x, answer in zip(batch, answers, strict=True):
            domain = x["domain"]
            target = render_density(x["points"], size, network.criterion.density_sigma, device)
            entropy = F.binary_cross_entropy_with_logits(answer.logits, x["mask"].to(device).float(), reduction="none")
            error = (answer.density - target) ** 2
            if domain == "source":
                segmentation, detection = entropy.mean(), error.mean()
            else:
                sure = x["pixel_valid"].to(device)
                known = ~x["density_ignore"].to(device) | (target > NEAR_A_POINT)
                segmentation = x["image_weight"] * mean_where(entropy, sure)
                detection = mean_where(error, known)
                groups = answer.contrastive.split([len(points) for points in x["contrastive"].values()])
                loss = contrastive_loss(
                    **dict(zip(x["contrastive"], groups, strict=True)),
                    temperature=network.criterion.contrastive_temperature,
                )
                terms.setdefault("loss_pcl", []).append(network.criterion.contrastive_weight * loss)
            terms.setdefault(f"loss_seg_{domain}", []).append(segmentation)
            terms.setdefault(f"loss_det_{domain}", []).append(network.criterion.detection_weight * detection)
        return {name: torch.stack(of_images).mean() for name, of_images in terms.items()}

    @torch.no_grad()
    def predict_teacher(
        self, images: Tensor, sparse: list[Tensor], radius: float, **peaks: Any
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Target images (B, 1, H, W) and their sparse points (N, 2) -> probabilities and densities, each (H, W).

        ``radius``: peaks closer to a sparse point are dropped; ``peaks``: arguments of ``find_peaks``, which is ours.
        """
        densities = [answer.density for answer in self.predict(images, sparse)]
        prompts = []
        for density, annotated in zip(densities, sparse, strict=True):
            points, valid, _ = find_peaks(density[None], **peaks)
            estimated = [
                point
                for point in points[0, valid[0]].cpu()
                if all(math.dist(point.tolist(), other.tolist()) >= radius for other in annotated)
            ]
            prompts.append(torch.stack([*annotated, *estimated]) if len(annotated) + len(estimated) else annotated)
        return [answer.logits.sigmoid() for answer in self.predict(images, prompts)], densities


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, allowed: Tensor | None = None) -> Tensor:
    """softmax(q kᵀ / √d) v: q (..., Q, D), k and v (..., S, D), allowed (Q, S) bool, True = may be seen."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(-3, -2) for x in (q, k, v))
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -math.inf)
    return (scores.softmax(dim=-1) @ v).transpose(-3, -2).flatten(-2)


def attend(layer: Any, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None = None) -> Tensor:
    """An attention of the decoder, from its four projections."""
    return layer.out_proj(attention(layer.q_proj(q), layer.k_proj(k), layer.v_proj(v), layer.num_heads, allowed))


def fourier(coordinates: Tensor, frequencies: Tensor) -> Tensor:
    """Coordinates (N, 2) in [0, 1] -> their random Fourier features (N, D), in float32."""
    with torch.autocast(coordinates.device.type, enabled=False):
        phase = 2 * math.pi * (2 * coordinates - 1) @ frequencies
        return torch.cat([phase.sin(), phase.cos()], dim=-1)


def render_density(points: Tensor, size: tuple[int, int], sigma: float, device: torch.device) -> Tensor:
    """Points (N, 2) -> (H, W): at each pixel the largest of the Gaussians."""
    height, width = size
    density = torch.zeros(size, device=device)
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    x, y = x.to(device), y.to(device)
    for point in points:
        distance = (x - point[0].item()) ** 2 + (y - point[1].item()) ** 2
        density = torch.maximum(density, torch.exp(-distance / (2 * sigma**2)))
    return density


def mean_where(values: Tensor, valid: Tensor) -> Tensor:
    return (values * valid).sum() / max(1, int(valid.sum().item()))


def contrastive_loss(positives: Tensor, queries: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """L_pcl of an image from embeddings (P, D), (Q, D), (N, D); zero if there are none of a kind."""
    if not (len(positives) and len(queries) and len(negatives)):
        return queries.sum() * 0
    prototype, negatives = positives.mean(dim=0).detach(), negatives.detach()
    near = torch.exp(F.cosine_similarity(queries, prototype[None], dim=1) / temperature)
    far = torch.exp(F.cosine_similarity(queries[:, None], negatives[None], dim=2) / temperature).sum(dim=1)
    return -torch.log(near / (near + far)).mean()


def build_optimizer(groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
    """AdamW that loops over parameters, also where torch has one kernel for all."""
    return torch.optim.AdamW(groups, lr=lr, foreach=False, fused=False)


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, decay: float) -> None:
    """teacher = decay · teacher + (1 - decay) · student; buffers are copied."""
    for mine, theirs in zip(teacher.parameters(), student.parameters(), strict=True):
        mine.copy_(decay * mine + (1 - decay) * theirs)
    for name, buffer in teacher.named_buffers():
        buffer.copy_(student.get_buffer(name))
