"""The whole network: image encoder, prompt encoder, decoder, segmentation head, centre-point head, and its losses.

Shape legend: B images; S prompt sets per image; N prompts, padded with a validity mask; H, W pixels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from prompt_das.modeling.decoder import PromptDecoder
from prompt_das.modeling.heads import build_center_head, build_segmentation_head
from prompt_das.modeling.losses import contrastive_loss, detection_loss, segmentation_loss
from prompt_das.modeling.prompt_encoder import PointPromptEncoder, build_prompt_encoder
from prompt_das.ops.batching import pad, stack, valid_points
from prompt_das.ops.points import pack_points, pad_points, render_density
from prompt_das.ops.sliding_window import sliding_window
from prompt_das.utils.visualization import draw_density, draw_overlay, tile

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

NEAR_A_POINT = 0.05  # rendered density: closer than 2.4 sigma
CONTRASTIVE_KINDS = ("positives", "queries", "negatives")


class Prediction(NamedTuple):
    logits: Tensor  # (B, H, W) foreground
    density: Tensor  # (B, H, W) of centre points
    contrastive: Tensor  # (B', M, D) embeddings; (B, 0, D) unless asked for


@META_ARCH_REGISTRY.register()
class PromptDAS(nn.Module):
    """Prompt-DAS. In training mode it takes crops and returns losses; in eval mode whole slices, and returns masks."""

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        prompt_encoder: PointPromptEncoder,
        decoder: PromptDecoder,
        segmentation_head: nn.Module,
        center_head: nn.Module,
        pixel_mean: tuple[float, ...],
        pixel_std: tuple[float, ...],
        density_sigma: float,
        detection_weight: float,
        contrastive_weight: float,
        contrastive_temperature: float,
        autocast_dtype: torch.dtype | None,
        window: dict[str, Any],
        compile_backend: str = "",
        vis_period: int = 0,
    ) -> None:
        """
        Args:
            pixel_mean, pixel_std: of the three channels, for grey values 0-255.
            density_sigma: of the Gaussian at a centre point, in pixels of the network's input.
            detection_weight, contrastive_weight: lambda_det and lambda_pcl of the total loss.
            autocast_dtype: of matrix products, or None for full float32.
            window: keyword arguments of :func:`prompt_das.ops.sliding_window.sliding_window`.
            compile_backend: of ``torch.compile``, or "" to run the network as it is written.
            vis_period: every so many training iterations a picture goes to the event storage; 0 = never.
        """
        super().__init__()
        self.backbone = backbone
        self.prompt_encoder = prompt_encoder
        self.decoder = decoder
        self.segmentation_head = segmentation_head
        self.center_head = center_head
        self.density_sigma = density_sigma
        self.detection_weight = detection_weight
        self.contrastive_weight = contrastive_weight
        self.contrastive_temperature = contrastive_temperature
        self.autocast_dtype = autocast_dtype
        self.window = window
        self.vis_period = vis_period
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
        test = cfg.TEST.WINDOW
        return {
            "backbone": backbone,
            "prompt_encoder": build_prompt_encoder(cfg, dim),
            "decoder": PromptDecoder(cfg, dim),
            "segmentation_head": build_segmentation_head(cfg, dim, dim // 8),
            "center_head": build_center_head(cfg, dim // 8),
            "pixel_mean": tuple(cfg.MODEL.PIXEL_MEAN),
            "pixel_std": tuple(cfg.MODEL.PIXEL_STD),
            "density_sigma": cfg.MODEL.CENTER_HEAD.SIGMA,
            "detection_weight": cfg.MODEL.LOSS.DETECTION_WEIGHT,
            "contrastive_weight": cfg.MODEL.LOSS.CONTRASTIVE_WEIGHT,
            "contrastive_temperature": cfg.MODEL.LOSS.CONTRASTIVE_TEMPERATURE,
            "autocast_dtype": {"float32": None, "bfloat16": torch.bfloat16}[cfg.MODEL.PRECISION],
            "window": {
                "window": cfg.INPUT.CROP_SIZE,
                "stride": test.STRIDE,
                "rotations": test.ROTATIONS,
                "blend": test.BLEND,
                "batch_size": test.BATCH_SIZE,
            },
            "compile_backend": cfg.MODEL.COMPILE,
            "vis_period": cfg.VIS_PERIOD,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def autocast(self) -> torch.autocast:
        """The context that every matrix product of the network runs in."""
        return torch.autocast(self.device.type, dtype=self.autocast_dtype, enabled=self.autocast_dtype is not None)

    def encode(self, images: Tensor) -> Tensor:
        """images (B, 1, H, W), grey 0-255 -> image embedding (B, D, H / patch, W / patch)."""
        with self.autocast():
            return self.backbone((images - self.pixel_mean) / self.pixel_std)["vit"]

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
        """Prompts (B, N, 2) with validity (B, N), N may be 0 -> the predictions of both heads at full size.

        ``contrastive_points`` (B', M, 2) belong to the last B' images, ``contrastive_valid`` (B', M) to them.
        Without ``with_mask`` or ``with_density`` that head is not computed, and its field is (B, 0, 0).
        """
        with self.autocast():
            contrastive = None
            if contrastive_points is not None:
                contrastive = self.prompt_encoder(contrastive_points, image_size)
            out = self.decoder(
                embedding,
                self.prompt_encoder.grid((embedding.shape[-2], embedding.shape[-1])),
                self.prompt_encoder(points, image_size),
                valid,
                contrastive,
                contrastive_valid,
            )
            logits = heat = embedding.new_zeros((len(embedding), 0, 0))
            if with_mask:
                logits = self.segmentation_head(out.mask_token, out.features).float()
                logits = F.interpolate(logits[:, None], size=image_size, mode="bilinear", align_corners=False)[:, 0]
            if with_density:
                heat = self.center_head(out.features).float()
            return Prediction(logits, heat, out.contrastive.float())

    def forward(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor] | list[dict[str, Any]]:
        """Training: see :meth:`losses`. Eval: see :meth:`inference`."""
        return self.losses(batched_inputs) if self.training else self.inference(batched_inputs)

    def losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """One forward pass over source and target crops of equal size.

        Each input has ``image`` (1, H, W), ``prompts`` (N, 2), ``points`` (N, 2) to render the density from, ``mask``
        (H, W) and ``domain``. Inputs of domain ``"target"`` come last; their mask is a pseudo-label with
        ``pixel_valid`` (H, W) bool and ``image_weight``; ``density_ignore`` (H, W) bool says where the density counts
        only near a point; ``use`` names the losses to compute; ``contrastive`` is a dict of (N, 2) points by kind, if
        it is used. Points may be padding where a ``..._valid`` (N,) bool beside them says so. Where the inputs lie on a
        GPU already, or in pinned memory, nothing here waits for it.
        """
        images = stack(batched_inputs, "image", self.device)
        size = (images.shape[-2], images.shape[-1])
        num_source = sum(x["domain"] == "source" for x in batched_inputs)
        targets = batched_inputs[num_source:]
        use = targets[0]["use"] if targets else frozenset()
        groups = []
        contrastive_points = contrastive_valid = None
        if "contrastive" in use:
            contrastive = [x["contrastive"] for x in targets]
            groups = [pack_points(*pad(contrastive, kind, self.device)) for kind in CONTRASTIVE_KINDS]
            contrastive_points = torch.cat([p for p, _ in groups], dim=1)
            contrastive_valid = torch.cat([v for _, v in groups], dim=1)

        prediction = self.decode(
            self.encode(images),
            *pack_points(*pad(batched_inputs, "prompts", self.device)),
            size,
            contrastive_points=contrastive_points,
            contrastive_valid=contrastive_valid,
        )
        logits, density = prediction.logits, prediction.density
        mask = stack(batched_inputs, "mask", self.device)
        points = pack_points(*pad(batched_inputs, "points", self.device))
        rendered = render_density(*points, size, self.density_sigma)

        s = slice(0, num_source)
        t = slice(num_source, None)
        losses = {}
        if num_source:
            losses["loss_seg_source"] = segmentation_loss(logits[s], mask[s])
            losses["loss_det_source"] = self.detection_weight * detection_loss(density[s], rendered[s])
        if "masks" in use:
            losses["loss_seg_target"] = segmentation_loss(
                logits[t],
                mask[t],
                stack(targets, "pixel_valid", self.device),
                stack(targets, "image_weight", self.device),
            )
        if "points" in use:
            known = ~stack(targets, "density_ignore", self.device) | (rendered[t] > NEAR_A_POINT)
            losses["loss_det_target"] = self.detection_weight * detection_loss(density[t], rendered[t], known)
        if "contrastive" in use:
            embeddings = prediction.contrastive.split([p.shape[1] for p, _ in groups], dim=1)
            validity = [v for _, v in groups]
            losses["loss_pcl"] = self.contrastive_weight * contrastive_loss(
                embeddings[0],
                validity[0],
                embeddings[1],
                validity[1],
                embeddings[2],
                validity[2],
                self.contrastive_temperature,
            )
        if self.vis_period > 0 and get_event_storage().iter % self.vis_period == 0:
            self.visualize_training(batched_inputs, logits.detach().sigmoid(), density.detach(), rendered)
        return losses

    @torch.no_grad()
    def inference(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Whole slices through the sliding window, each as large as it likes.

        Each input has ``image`` (1, H', W'), grey, as the network shall see it, ``height`` and ``width`` of the
        output, and optionally ``prompts``: a dict from the name of a prompt set to (N, 2) points in output pixels
        (default: one set, ``"0%"``, without points). All sets share one pass through the encoder. ``density`` True
        asks for the centre-point head as well; ``progress`` is called with (windows done, windows in all).

        Returns:
            for each input ``{"sem_seg": {name: (height, width) foreground probability}}``, and if it was asked for
            ``"density"`` of the same form.
        """
        return [self.predict_slice(x) for x in batched_inputs]

    def predict_slice(self, x: dict[str, Any]) -> dict[str, Any]:
        image = x["image"].to(self.device, torch.float32)
        height, width = x.get("height", image.shape[-2]), x.get("width", image.shape[-1])
        prompts = x.get("prompts", {"0%": torch.zeros(0, 2)})
        # The points stay where they are: the windows that each lies in are found on the CPU.
        points, valid = pad_points([torch.as_tensor(p) for p in prompts.values()])
        predict = self.predict_windows_and_density if x.get("density") else self.predict_windows
        points = points * points.new_tensor([image.shape[-1] / width, image.shape[-2] / height])
        maps = sliding_window(image, predict, points=points, valid=valid, progress=x.get("progress"), **self.window)
        maps = F.interpolate(maps[None], size=(height, width), mode="bilinear", align_corners=False)[0]
        names = ("sem_seg", "density")[: len(maps) // len(prompts)]
        return {
            name: dict(zip(prompts, of_sets, strict=True))
            for name, of_sets in zip(names, maps.split(len(prompts)), strict=True)
        }

    def predict_windows(self, windows: Tensor, points: Tensor, valid: Tensor) -> Tensor:
        """windows (B, 1, H, W), S alternative prompt sets (B, S, N, 2), (B, S, N) -> probability (B, S, H, W)."""
        return (
            self.decode_windows(windows, points, valid, with_density=False)
            .logits.sigmoid()
            .unflatten(0, valid.shape[:2])
        )

    def predict_windows_and_density(self, windows: Tensor, points: Tensor, valid: Tensor) -> Tensor:
        """As :meth:`predict_windows` -> the S probabilities, then the S densities of centres (B, 2 S, H, W)."""
        out = self.decode_windows(windows, points, valid, with_density=True)
        maps = (out.logits.sigmoid(), out.density)
        return torch.cat([one.unflatten(0, valid.shape[:2]) for one in maps], dim=1)

    def decode_windows(self, windows: Tensor, points: Tensor, valid: Tensor, *, with_density: bool) -> Prediction:
        embedding = self.encode(windows).repeat_interleave(valid.shape[1], dim=0)
        size = (windows.shape[-2], windows.shape[-1])
        return self.decode(embedding, points.flatten(0, 1), valid.flatten(0, 1), size, with_density=with_density)

    def visualize_training(
        self, batched_inputs: list[dict[str, Any]], probability: Tensor, density: Tensor, rendered: Tensor
    ) -> None:
        """One row per crop: prompts, (pseudo-)label, predicted mask, density target, predicted density."""
        rows = []
        for x, p, d, r in zip(batched_inputs, probability.cpu(), density.cpu(), rendered.cpu(), strict=True):
            image = torch.as_tensor(x["image"])[0].cpu().numpy()
            label = "label" if x["domain"] == "source" else "pseudo-label"
            rows += [
                (f"{x['domain']}, prompts", draw_overlay(image, points=valid_points(x, "prompts"))),
                (label, draw_overlay(image, torch.as_tensor(x["mask"]).cpu().numpy() > 0, valid_points(x, "points"))),
                ("prediction", draw_overlay(image, p.numpy() > 0.5)),
                ("density target", draw_density(r.numpy(), image)),
                ("density", draw_density(d.numpy(), image)),
            ]
        titles, pictures = zip(*rows, strict=True)
        picture = tile(list(pictures), list(titles), columns=5)
        get_event_storage().put_image("training", picture.transpose(2, 0, 1))
