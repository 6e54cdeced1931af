"""The meta-architecture: image encoder, prompt encoder, decoder and two heads, put together (Prompt-DAS, Sec. 2.1).

Shape legend: B images; S prompt sets of each; N prompts, padded with a validity mask; H, W pixels; D channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from prompt_das.modeling.backbone import build_backbone
from prompt_das.modeling.criterion import PromptDASCriterion
from prompt_das.modeling.cuda_graphs import CudaGraphs, uses_cuda_graphs
from prompt_das.modeling.decoder import PromptDecoder
from prompt_das.modeling.heads import build_center_head, build_segmentation_head
from prompt_das.modeling.high_res_features import HighResEncoder
from prompt_das.modeling.postprocessing import apply_rules, confidence_at_outline, resize_maps
from prompt_das.modeling.precision import computed_precision
from prompt_das.modeling.prompt_encoder import PointPromptEncoder, build_prompt_encoder
from prompt_das.modeling.structures import Points, Prediction, collate
from prompt_das.ops.mask_rules import MaskRules
from prompt_das.ops.points import as_clicks, pad_points, split_labels
from prompt_das.ops.sliding_window import sliding_window

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

PromptSets = Mapping[str, np.ndarray]
NO_POINTS = np.zeros((0, 2), np.float32)
NO_PROMPTS: PromptSets = {"0%": NO_POINTS}


@META_ARCH_REGISTRY.register()
class PromptDAS(nn.Module):
    """Prompt-DAS. In training mode it takes crops and returns losses; in eval mode slices, and returns masks."""

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        prompt_encoder: PointPromptEncoder,
        decoder: PromptDecoder,
        segmentation_head: nn.Module,
        center_head: nn.Module,
        criterion: PromptDASCriterion,
        pixel_mean: tuple[float, ...],
        pixel_std: tuple[float, ...],
        contrastive_from: str,
        rules: MaskRules,
        window: dict[str, Any],
        high_res_encoder: nn.Module | None = None,
        outline_probability: float = 0.5,
        precision: str = "float32",
        compile_backend: str = "",
        cuda_graphs: bool = False,
        evaluated_with_density: bool = False,
    ) -> None:
        """
        Args:
            criterion: computes the losses of a training batch.
            pixel_mean, pixel_std: of the three channels, in gray values 0-255.
            contrastive_from: "tokens" at the contrastive points (the paper), or the "features" of the image there.
            rules: what follows the network in a slice.
            evaluated_with_density: whether :meth:`inference` predicts the density of center points as well.
            window: keyword arguments of :func:`prompt_das.ops.sliding_window.sliding_window`.
            high_res_encoder: of features finer than the patch grid; None: there are none, as in the paper.
            outline_probability: of the trained network, where outlines are to lie; it becomes 0.5 in all predictions.
            precision: "float32" or "bfloat16", the type of matrix products (:func:`computed_precision`).
            compile_backend: backend of ``torch.compile``, or "" to run the network as it is written.
            cuda_graphs: whether passes of a training are replayed on GPUs (:class:`CudaGraphs`).
        """
        super().__init__()
        self.backbone = backbone
        self.prompt_encoder = prompt_encoder
        self.decoder = decoder
        self.high_res_encoder = high_res_encoder
        self.segmentation_head = segmentation_head
        self.center_head = center_head
        self.criterion = criterion
        self.precision = precision
        self.contrastive_from = contrastive_from
        self.outline_logit = math.log(outline_probability / (1 - outline_probability))
        self.rules = rules
        self.evaluated_with_density = evaluated_with_density
        self.window = window
        self.graphs = CudaGraphs(cuda_graphs)
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)
        if compile_backend:
            for part in (backbone, prompt_encoder, decoder, segmentation_head, center_head):
                part.compile(backend=compile_backend)  # in place: the names of the weights stay

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        backbone = build_backbone(cfg)
        dim = backbone.output_shape()["vit"].channels
        high_res = HighResEncoder(dim, cfg.MODEL.VIT.PATCH_SIZE) if cfg.MODEL.DECODER.HIGH_RES_FEATURES else None
        test = cfg.TEST.WINDOW
        outline = cfg.MODEL.SEM_SEG_HEAD.OUTLINE_PROBABILITY
        prompt_encoder = build_prompt_encoder(cfg, dim)
        if cfg.INPUT.CLICKS.ENABLED and not prompt_encoder.uses_labels:
            raise ValueError(
                f"INPUT.CLICKS.ENABLED trains with negative clicks, but MODEL.PROMPT_ENCODER.NAME "
                f"{cfg.MODEL.PROMPT_ENCODER.NAME} leaves them out; use ClickPromptEncoder, or set it False"
            )
        return {
            "backbone": backbone,
            "prompt_encoder": prompt_encoder,
            "decoder": PromptDecoder(cfg, dim),
            "high_res_encoder": high_res,
            "segmentation_head": build_segmentation_head(cfg, dim, dim // 8),
            "center_head": build_center_head(cfg, dim // 8),
            "criterion": PromptDASCriterion(cfg),
            "pixel_mean": tuple(cfg.MODEL.PIXEL_MEAN),
            "pixel_std": tuple(cfg.MODEL.PIXEL_STD),
            "precision": cfg.MODEL.PRECISION,
            "rules": MaskRules(
                click_reach=cfg.TEST.CLICK_REACH,
                min_confidence=confidence_at_outline(cfg.TEST.MIN_CONFIDENCE, outline),
            ),
            "outline_probability": outline,
            "evaluated_with_density": cfg.TEST.INSTANCES == "centers" and "instance" in cfg.TEST.PROTOCOLS,
            "contrastive_from": cfg.MODEL.DECODER.CONTRASTIVE_FROM,
            "window": {
                "window": cfg.INPUT.CROP_SIZE,
                "stride": test.STRIDE,
                "rotations": test.ROTATIONS,
                "blend": test.BLEND,
                "batch_size": test.BATCH_SIZE,
            },
            "compile_backend": cfg.MODEL.COMPILE,
            "cuda_graphs": uses_cuda_graphs(cfg),
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def autocast(self) -> torch.autocast:
        """The context that every matrix product of the network runs in."""
        enabled = computed_precision(self.precision, self.device) == "bfloat16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)

    def encode(self, images: Tensor) -> Tensor:
        """images (B, 1, H, W), gray 0-255 -> image embedding (B, D, H / patch, W / patch).

        With high-resolution features these are further channels: (B, 4 D, H / patch, W / patch).
        """
        images = (images - self.pixel_mean) / self.pixel_std
        with self.autocast():
            embedding = self.backbone(images)["vit"]
            if self.high_res_encoder is not None:
                embedding = torch.cat([embedding, self.high_res_encoder(images).to(embedding.dtype)], dim=1)
        return embedding

    def decode(
        self,
        embedding: Tensor,
        points: Tensor,
        valid: Tensor,
        image_size: tuple[int, int],
        *,
        contrastive_points: Tensor | None = None,
        contrastive_valid: Tensor | None = None,
        with_mask: bool = True,
        with_density: bool = True,
    ) -> Prediction:
        """Prompts (B, N, 2 or 3) with validity (B, N), N may be 0 -> the predictions of both heads at full size.

        Prompts are points, or clicks (x, y, label); a prompt encoder that does not use labels gets the positive ones.

        ``contrastive_points`` (B', M, 2) belong to the last B' images, ``contrastive_valid`` (B', M) to them.
        Without ``with_mask`` or ``with_density`` that head is not computed, and its field is (B, 0, 0).
        """
        grid_size = (embedding.shape[-2], embedding.shape[-1])
        if not self.prompt_encoder.uses_labels:
            points, positive = split_labels(points)
            valid = valid & positive
        with self.autocast():
            contrastive = None
            if contrastive_points is not None and self.contrastive_from == "tokens":
                contrastive = self.prompt_encoder(contrastive_points, image_size)
            dense = self.prompt_encoder.dense(points, valid, image_size, grid_size)
            high_res = None
            if self.high_res_encoder is not None:
                embedding, high_res = embedding.tensor_split([self.decoder.dim], dim=1)
            out = self.decoder(
                embedding if dense is None else embedding + dense,
                self.prompt_encoder.grid(grid_size),
                self.prompt_encoder(points, image_size),
                valid,
                contrastive,
                contrastive_valid,
                high_res,
            )
            logits = density = embedding.new_zeros((len(embedding), 0, 0))
            if with_mask:
                logits = self.segmentation_head(out.mask_token, out.features).float()
                logits = F.interpolate(logits[:, None], size=image_size, mode="bilinear", align_corners=False)[:, 0]
                logits = logits - self.outline_logit
            if with_density:
                density = self.center_head(out.features).float()
            embeddings = out.contrastive
            if contrastive_points is not None and self.contrastive_from == "features":
                embeddings = self.decoder.embed_points(out.image, contrastive_points, image_size)
            return Prediction(logits, density, embeddings.float())

    def predict_crops(
        self,
        images: Tensor,
        points: Tensor,
        valid: Tensor,
        contrastive_points: Tensor | None = None,
        contrastive_valid: Tensor | None = None,
    ) -> Prediction:
        """:meth:`encode`, then :meth:`decode`."""
        return self.decode(
            self.encode(images),
            points,
            valid,
            (images.shape[-2], images.shape[-1]),
            contrastive_points=contrastive_points,
            contrastive_valid=contrastive_valid,
        )

    def forward(self, batched_inputs: Sequence[Mapping[str, Any]]) -> dict[str, Tensor] | list[dict[str, Any]]:
        """Training: see :meth:`losses`. Eval: see :meth:`inference`."""
        return self.losses(batched_inputs) if self.training else self.inference(batched_inputs)

    def losses(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """One forward pass over source and target crops of equal size -> weighted losses by name.

        Args:
            samples: source samples, then labeled target samples, as ``prompt_das.data.samples`` defines them.
        """
        batch = collate(samples, self.device, contrastive=self.criterion.uses_contrastive)
        contrastive: Points | None = None
        if batch.contrastive:
            contrastive = Points(*(torch.cat(parts, dim=1) for parts in zip(*batch.contrastive, strict=True)))
        prediction = self.graphs(self.predict_crops, batch.images, *batch.prompts, *(contrastive or ()))
        # Source masks have their outlines where the network puts them by itself.
        source = torch.arange(len(batch.images), device=self.device) < batch.num_source
        logits = prediction.logits + self.outline_logit * source[:, None, None]
        return self.criterion(prediction._replace(logits=logits), batch)

    def inference(self, batched_inputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Slices of any size through the sliding window; prompts may change all of a slice, as in the paper.

        Args:
            batched_inputs: for each slice ``image`` (1, H', W'), and optionally ``height``, ``width`` and ``prompts``:
                the arguments of :meth:`predict_slice`.

        Returns:
            for each slice ``{"sem_seg": {name: (height, width) foreground probability}}``, and ``"density"`` where the
            model is ``evaluated_with_density``, see :meth:`predict_slice`.
        """
        return [
            self.predict_slice(
                x["image"],
                x.get("prompts", NO_PROMPTS),
                (x.get("height", x["image"].shape[-2]), x.get("width", x["image"].shape[-1])),
                with_density=self.evaluated_with_density,
                rules=replace(self.rules, click_reach="image"),
            )
            for x in batched_inputs
        ]

    @torch.no_grad()
    def predict_slice(
        self,
        image: Tensor,
        prompts: PromptSets,
        output_size: tuple[int, int],
        *,
        with_density: bool = False,
        rules: MaskRules | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, dict[str, Tensor]]:
        """A slice of any size through the sliding window.

        Args:
            image: (1, H', W') gray values 0-255, at the scale of the network.
            prompts: for each name of a prompt set its points (N, 2) or clicks (N, 3), in pixels of the output; N may
                be 0. All sets share one pass through the encoder.
            output_size: (H, W).
            with_density: predict the density of center points as well.
            rules: what follows the network; by default its own.
            progress: called with (windows done, windows in all) after each batch of windows.

        Returns:
            ``{"sem_seg": {name: (H, W) foreground probability}}``, with ``with_density`` also ``"density"``.
        """
        image = image.to(self.device, torch.float32)
        height, width = output_size
        # The points stay on the CPU: there it is found out which windows each lies in.
        clicks = [as_clicks(p) for p in prompts.values()]
        rules = self.rules if rules is None else rules
        needs_automatic = any(map(rules.needs_automatic, clicks))
        sets = [*clicks, as_clicks(NO_POINTS)] if needs_automatic else clicks
        points, valid = pad_points([torch.from_numpy(one) for one in sets])
        predict = self.predict_windows_and_density if with_density else self.predict_windows
        points = points * points.new_tensor([image.shape[-1] / width, image.shape[-2] / height, 1])
        maps = sliding_window(image, predict, points=points, valid=valid, progress=progress, **self.window)
        probability, *density = resize_maps(maps, output_size).split(len(sets))
        if needs_automatic or rules.min_confidence:
            automatic = probability[-1] if needs_automatic else None
            probability = apply_rules(rules, probability[: len(clicks)], automatic, clicks)
        names = ("sem_seg", "density")[: 1 + with_density]
        maps_of_names = zip(names, (probability, *density), strict=True)
        return {name: dict(zip(prompts, of_sets, strict=False)) for name, of_sets in maps_of_names}

    def predict_windows(self, windows: Tensor, points: Tensor, valid: Tensor) -> Tensor:
        """windows (B, 1, H, W), S alternative prompt sets (B, S, N, 3), (B, S, N) -> probability (B, S, H, W)."""
        return (
            self.decode_windows(windows, points, valid, with_density=False)
            .logits.sigmoid()
            .unflatten(0, valid.shape[:2])
        )

    def predict_windows_and_density(self, windows: Tensor, points: Tensor, valid: Tensor) -> Tensor:
        """As :meth:`predict_windows` -> the S probabilities, then the S densities of centers (B, 2 S, H, W)."""
        out = self.decode_windows(windows, points, valid, with_density=True)
        maps = (out.logits.sigmoid(), out.density)
        return torch.cat([one.unflatten(0, valid.shape[:2]) for one in maps], dim=1)

    def decode_windows(self, windows: Tensor, points: Tensor, valid: Tensor, *, with_density: bool) -> Prediction:
        """As :meth:`predict_windows` -> the predictions of B · S images, the sets of a window one after the other."""
        embedding = self.encode(windows).repeat_interleave(valid.shape[1], dim=0)
        size = (windows.shape[-2], windows.shape[-1])
        return self.decode(embedding, points.flatten(0, 1), valid.flatten(0, 1), size, with_density=with_density)
