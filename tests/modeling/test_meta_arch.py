"""The whole network: training losses of every mode, and prediction of whole slices."""

from __future__ import annotations

from typing import Any

from prompt_das.modeling import PromptDAS
from prompt_das.modeling.losses import detection_loss, segmentation_loss
from prompt_das.ops.points import pad_points, render_density

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor

SIZE = 32  # of a crop
POINTS = np.array([[5.5, 20.5], [28.5, 3.5], [16.5, 16.5]], np.float32)
NONE = POINTS[:0]
NOBODY = torch.zeros(1, 0, dtype=torch.bool)
LOSSES = {"points": "loss_det_target", "masks": "loss_seg_target", "contrastive": "loss_pcl"}
SOURCE_LOSSES = {"loss_seg_source", "loss_det_source"}


@pytest.fixture
def model(tiny_cfg: CfgNode) -> PromptDAS:
    return build_model(tiny_cfg)


def gray(seed: int, height: int = SIZE, width: int = SIZE) -> Tensor:
    return 255 * torch.rand(1, height, width, generator=torch.Generator().manual_seed(seed))


def source(seed: int = 0, prompts: np.ndarray = POINTS) -> dict[str, Any]:
    """What SourceMapper gives."""
    mask = torch.zeros(SIZE, SIZE, dtype=torch.uint8)
    mask[10:22, 4:20] = 1
    return {"domain": "source", "image": gray(seed), "mask": mask, "points": POINTS, "prompts": prompts}


def target(
    seed: int = 0,
    *,
    prompts: np.ndarray = POINTS[:1],
    positives: np.ndarray = POINTS[:1],
    queries: np.ndarray = POINTS,
    negatives: np.ndarray = POINTS + 2,
) -> dict[str, Any]:
    """What PseudoLabeler gives: the left half of its pixels is confident."""
    pixel_valid = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    pixel_valid[:, : SIZE // 2] = True
    return {
        **source(100 + seed, prompts),
        "domain": "target",
        "pixel_valid": pixel_valid,
        "image_weight": 0.25,
        "density_ignore": torch.zeros(SIZE, SIZE, dtype=torch.bool),
        "contrastive": {"positives": positives, "queries": queries, "negatives": negatives},
    }


def assert_trains(model: PromptDAS, losses: dict[str, Tensor]) -> None:
    """Every loss is a finite number and so is its gradient."""
    model.zero_grad()
    total = torch.stack(list(losses.values())).sum()
    assert total.isfinite()
    total.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(g.isfinite().all() for g in gradients)


# ---- training


def test_source_images_alone(model: PromptDAS) -> None:
    """Burn-in: two losses, and the contrastive MLP rests."""
    losses = model([source(0), source(1)])
    assert losses.keys() == SOURCE_LOSSES
    assert_trains(model, losses)
    resting = {name for name, p in model.named_parameters() if p.grad is None}
    assert resting == {name for name, _ in model.named_parameters() if name.startswith("decoder.contrastive_mlp.")}


def test_source_and_target_together_train_every_parameter(model: PromptDAS) -> None:
    losses = model([source(0), source(1), target(0), target(1)])
    assert losses.keys() == SOURCE_LOSSES | set(LOSSES.values())
    assert all(loss > 0 for loss in losses.values())
    assert_trains(model, losses)
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_target_images_alone(model: PromptDAS) -> None:
    losses = model([target(0), target(1)])
    assert losses.keys() == set(LOSSES.values())
    assert_trains(model, losses)


@pytest.mark.parametrize("enabled", [(), ("points",), ("masks",), ("contrastive",), ("points", "masks")], ids=str)
def test_each_target_loss_has_its_own_switch(tiny_cfg: CfgNode, model: PromptDAS, enabled: tuple[str, ...]) -> None:
    """A disabled loss is absent; an enabled one has the value that it has among all the others."""
    node = tiny_cfg.DOMAIN_ADAPT
    node.USE_POINT_PSEUDO_LABELS, node.USE_MASK_PSEUDO_LABELS = "points" in enabled, "masks" in enabled
    node.USE_CONTRASTIVE = "contrastive" in enabled
    switched = build_model(tiny_cfg)
    switched.load_state_dict(model.state_dict())
    everything = model([source(0), target(0)])
    losses = switched([source(0), target(0)])
    assert losses.keys() == SOURCE_LOSSES | {LOSSES[name] for name in enabled}
    for name, loss in losses.items():
        torch.testing.assert_close(loss, everything[name])
    assert_trains(switched, losses)


def test_the_losses_are_what_their_formulas_say(model: PromptDAS) -> None:
    inputs = [source(0), source(1), target(0), target(1)]
    losses = model(inputs)
    images = torch.stack([x["image"] for x in inputs])
    with torch.no_grad():
        prompts, valid = pad_points([torch.from_numpy(x["prompts"]) for x in inputs])
        logits, density, _ = model.decode(model.encode(images), prompts, valid, (SIZE, SIZE))
    mask = inputs[0]["mask"].expand(2, -1, -1)
    rendered = render_density(*pad_points([torch.from_numpy(POINTS)] * 2), (SIZE, SIZE), sigma=3.0)
    left = (..., slice(0, SIZE // 2))  # the teacher is sure there, and a quarter sure of the whole image
    expected = {
        "loss_seg_source": segmentation_loss(logits[:2], mask),
        "loss_det_source": 10 * detection_loss(density[:2], rendered),
        "loss_seg_target": 0.25 * segmentation_loss(logits[2:][left], mask[left]),
        "loss_det_target": 10 * detection_loss(density[2:], rendered),
    }
    for name, value in expected.items():
        torch.testing.assert_close(
            losses[name], value, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_where_the_teacher_is_unsure_the_density_counts_only_near_a_point(model: PromptDAS) -> None:
    """Without the far, unsure pixels the loss is the mean over the others: here those that hold more than 0.05."""
    sure, unsure = target(0), target(0)
    unsure["density_ignore"] = ~unsure["density_ignore"]
    with torch.no_grad():
        prompts, valid = pad_points([torch.from_numpy(sure["prompts"])])
        density = model.decode(model.encode(sure["image"][None]), prompts, valid, (SIZE, SIZE)).density
    rendered = render_density(*pad_points([torch.from_numpy(POINTS)]), (SIZE, SIZE), sigma=3.0)
    near = rendered > 0.05
    assert 0.1 < near.float().mean() < 0.9
    error = (density - rendered).square()
    torch.testing.assert_close(model([sure])["loss_det_target"], 10 * error.mean(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(model([unsure])["loss_det_target"], 10 * error[near].mean(), rtol=1e-4, atol=1e-6)


def test_weights_of_the_losses_come_from_the_config(tiny_cfg: CfgNode) -> None:
    model = build_model(tiny_cfg)
    inputs = [source(0), target(0)]
    before = model(inputs)
    tiny_cfg.MODEL.LOSS.DETECTION_WEIGHT = 20.0
    tiny_cfg.MODEL.LOSS.CONTRASTIVE_WEIGHT = 0.3
    tiny_cfg.MODEL.LOSS.CONTRASTIVE_TEMPERATURE = 0.5
    heavier = build_model(tiny_cfg)
    heavier.load_state_dict(model.state_dict())
    after = heavier(inputs)
    factors = {"loss_seg_source": 1, "loss_seg_target": 1, "loss_det_source": 2, "loss_det_target": 2, "loss_pcl": 3}
    for name, factor in factors.items():
        torch.testing.assert_close(after[name], factor * before[name])


@pytest.mark.parametrize("empty", ["prompts", "positives", "queries", "negatives"])
def test_a_target_image_without_any(model: PromptDAS, empty: str) -> None:
    losses = model([source(0), target(0, **{empty: NONE})])
    assert_trains(model, losses)
    if empty != "prompts":
        assert losses["loss_pcl"] == 0


def test_a_batch_without_any_point_at_all(model: PromptDAS) -> None:
    nothing = target(0, prompts=NONE, positives=NONE, queries=NONE, negatives=NONE)
    losses = model([{**source(0, NONE), "points": NONE}, {**nothing, "points": NONE, "image_weight": 0.0}])
    assert_trains(model, losses)
    assert losses["loss_seg_target"] == losses["loss_pcl"] == 0


def test_images_with_and_without_contrastive_points_share_a_batch(model: PromptDAS) -> None:
    """An image without any adds zero to the mean: two images together are the half of the one that has some."""
    full, empty = target(0), target(1, positives=NONE, queries=NONE, negatives=NONE)
    alone = model([full])["loss_pcl"]
    torch.testing.assert_close(model([full, empty])["loss_pcl"], alone / 2)
    torch.testing.assert_close(model([source(0), empty, full])["loss_pcl"], alone / 2)


def test_contrastive_points_change_no_other_loss(model: PromptDAS) -> None:
    with_them, without = target(0), target(0, positives=NONE, queries=NONE, negatives=NONE)
    a, b = model([source(0), with_them]), model([source(0), without])
    for name in (*SOURCE_LOSSES, "loss_seg_target", "loss_det_target"):
        torch.testing.assert_close(a[name], b[name])


def test_bfloat16_is_a_switch_and_losses_stay_float32(tiny_cfg: CfgNode, emulated_bfloat16: None) -> None:
    exact = build_model(tiny_cfg)
    tiny_cfg.MODEL.PRECISION = "bfloat16"
    model = build_model(tiny_cfg)
    model.load_state_dict(exact.state_dict())
    inputs = [source(0), target(0)]
    losses, expected = model(inputs), exact(inputs)
    assert_trains(model, losses)
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, expected[name], rtol=0.05, atol=0.01)
    assert any(not torch.equal(losses[name], expected[name]) for name in losses)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    with torch.no_grad():
        prediction = model.decode(model.encode(inputs[0]["image"][None]), torch.zeros(1, 0, 2), NOBODY, (SIZE, SIZE))
    assert {x.dtype for x in prediction} == {torch.float32}


# ---- prompts


@pytest.fixture
def crops(model: PromptDAS) -> Tensor:
    """Embeddings of three crops."""
    with torch.no_grad():
        return model.eval().encode(torch.stack([gray(i) for i in range(3)]))


def decode(model: PromptDAS, embedding: Tensor, points: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        padded, valid = pad_points([torch.from_numpy(p) for p in points])
        logits, density, _ = model.decode(embedding, padded, valid, (SIZE, SIZE))
    return logits, density


def test_a_batch_is_its_images_one_by_one(model: PromptDAS, crops: Tensor) -> None:
    points = [POINTS, NONE, POINTS[1:2]]
    logits, density = decode(model, crops, points)
    for i in range(3):
        one_logits, one_density = decode(model, crops[i : i + 1], points[i : i + 1])
        torch.testing.assert_close(one_logits[0], logits[i], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(one_density[0], density[i], rtol=1e-4, atol=1e-5)


def test_the_order_of_prompts_makes_no_difference(model: PromptDAS, crops: Tensor) -> None:
    there, back = decode(model, crops, [POINTS] * 3), decode(model, crops, [POINTS[::-1].copy()] * 3)
    torch.testing.assert_close(there, back, rtol=1e-4, atol=1e-5)


def test_a_prompt_that_moves_makes_a_difference(model: PromptDAS, crops: Tensor) -> None:
    moved = POINTS.copy()
    moved[2] = 2.5, 29.5
    for a, b in zip(decode(model, crops, [POINTS] * 3), decode(model, crops, [moved] * 3), strict=True):
        assert (a - b).abs().amax((1, 2)).min() > 1e-4


def test_heads_that_are_not_needed_are_not_computed(
    model: PromptDAS, crops: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = []
    for name in ("segmentation_head", "center_head"):
        head = getattr(model, name)
        run = head.forward
        monkeypatch.setattr(head, "forward", lambda *args, name=name, run=run: computed.append(name) or run(*args))
    points, valid = torch.zeros(3, 0, 2), torch.zeros(3, 0).bool()
    model.decode(crops, points, valid, (SIZE, SIZE))
    assert computed == ["segmentation_head", "center_head"]
    computed.clear()
    prediction = model.decode(crops, points, valid, (SIZE, SIZE), with_density=False)
    assert (computed, prediction.density.numel()) == (["segmentation_head"], 0)
    computed.clear()
    prediction = model.decode(crops, points, valid, (SIZE, SIZE), with_mask=False)
    assert (computed, prediction.logits.numel()) == (["center_head"], 0)
    computed.clear()
    model([{"image": gray(0)}])
    assert computed == ["segmentation_head"]  # half of the forward pass is saved in evaluation


def test_gray_values_are_normalized_by_imagenet_s(model: PromptDAS, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    run = model.backbone.forward
    monkeypatch.setattr(model.backbone, "forward", lambda x: seen.append(x) or run(x))
    model.encode(torch.full((1, 1, SIZE, SIZE), 123.675))
    assert seen[0].shape == (1, 3, SIZE, SIZE)
    expected = [0, (123.675 - 116.28) / 57.12, (123.675 - 103.53) / 57.375]
    assert seen[0][0, :, 3, 5].tolist() == pytest.approx(expected, abs=1e-6)


# ---- whole slices


@pytest.mark.parametrize("size", [(64, 64), (50, 71), (32, 40), (20, 90), (9, 7), (1, 1)])
def test_slices_of_any_size(model: PromptDAS, size: tuple[int, int]) -> None:
    """Also smaller than the window of 32 pixels, and smaller than its half."""
    height, width = size
    points = np.array([[width - 0.5, height - 0.5]], np.float32)
    (output,) = model.eval()([{"image": gray(0, *size), "prompts": {"0%": NONE, "100%": points}}])
    assert list(output["sem_seg"]) == ["0%", "100%"]
    for probability in output["sem_seg"].values():
        assert probability.shape == size
        assert probability.min() >= 0
        assert probability.max() <= 1


def test_several_prompt_sets_in_one_pass_are_each_set_alone(model: PromptDAS, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = {"0%": NONE, "50%": POINTS[:1], "100%": POINTS + 20}
    image = gray(0, 60, 70)
    encoded = []
    run = model.encode
    monkeypatch.setattr(model, "encode", lambda images: encoded.append(len(images)) or run(images))
    (together,) = model.eval()([{"image": image, "prompts": sets}])
    once = sum(encoded)
    for name, points in sets.items():
        (alone,) = model([{"image": image, "prompts": {name: points}}])
        torch.testing.assert_close(alone["sem_seg"][name], together["sem_seg"][name], rtol=1e-4, atol=1e-5)
    assert sum(encoded) == 4 * once  # three sets alone and three together cost four passes of the encoder
    difference = together["sem_seg"]["100%"] - together["sem_seg"]["0%"]
    assert difference.abs().max() > 1e-5


def test_without_prompts_there_is_one_set(model: PromptDAS) -> None:
    image = gray(0, 40, 40)
    (output,) = model.eval()([{"image": image}])
    (expected,) = model([{"image": image, "prompts": {"none": NONE}}])
    assert list(output["sem_seg"]) == ["0%"]
    assert torch.equal(output["sem_seg"]["0%"], expected["sem_seg"]["none"])


def test_slices_of_a_batch_may_differ_in_size(model: PromptDAS) -> None:
    inputs = [{"image": gray(0, 40, 50)}, {"image": gray(1, 33, 32)}]
    outputs = model.eval()(inputs)
    assert [tuple(o["sem_seg"]["0%"].shape) for o in outputs] == [(40, 50), (33, 32)]
    for one, output in zip(inputs, outputs, strict=True):
        assert torch.equal(model([one])[0]["sem_seg"]["0%"], output["sem_seg"]["0%"])


def test_a_network_that_works_at_half_resolution(model: PromptDAS, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts come, and probabilities go, in pixels of the slice; in between all is half as large."""
    seen = []
    run = model.decode
    monkeypatch.setattr(model, "decode", lambda e, p, v, *args, **kw: seen.append(p[v]) or run(e, p, v, *args, **kw))
    small = gray(0, 32, 32)
    points = np.array([[10.5, 41.5]], np.float32)
    (output,) = model.eval()([{"image": small, "height": 64, "width": 64, "prompts": {"all": points}}])
    assert output["sem_seg"]["all"].shape == (64, 64)
    assert torch.cat(seen).tolist() == [[5.25, 20.75, 1]]


def test_prediction_does_not_train(model: PromptDAS) -> None:
    """No gradient is recorded, and nothing random happens: twice is once."""
    inputs = [{"image": gray(0, 40, 40), "prompts": {"all": POINTS}}]
    first, second = (model.eval()(inputs)[0]["sem_seg"]["all"] for _ in range(2))
    assert not first.requires_grad
    assert torch.equal(first, second)


def test_the_density_of_a_slice_is_that_of_the_center_point_head(model: PromptDAS) -> None:
    image = gray(0)
    prompts = {"none": NONE, "all": POINTS}
    out = model.eval().predict_slice(image, prompts, (SIZE, SIZE), with_density=True)
    assert list(out["density"]) == list(out["sem_seg"]) == ["none", "all"]
    for name, points in prompts.items():
        expected = model.decode(model.encode(image[None]), *pad_points([torch.from_numpy(points)]), (SIZE, SIZE))
        torch.testing.assert_close(out["density"][name], expected.density[0])
        torch.testing.assert_close(out["sem_seg"][name], expected.logits[0].sigmoid())


@pytest.mark.parametrize(
    ("instances", "protocols", "expected"),
    [("centers", ("paper", "instance"), True), ("centers", ("paper",), False), ("components", ("instance",), False)],
)
def test_an_evaluation_predicts_the_density_where_its_instances_come_from_centers(
    tiny_cfg: CfgNode, instances: str, protocols: tuple[str, ...], expected: bool
) -> None:
    tiny_cfg.TEST.INSTANCES, tiny_cfg.TEST.PROTOCOLS = instances, protocols
    (output,) = build_model(tiny_cfg).eval()([{"image": gray(0), "prompts": {"0%": NONE}}])
    assert ("density" in output) == expected
    assert all(list(maps) == ["0%"] for maps in output.values())


@pytest.mark.parametrize("rotations", [1, 4])
def test_a_slice_is_the_mean_of_its_windows_one_by_one(tiny_cfg: CfgNode, rotations: int) -> None:
    """The network sees one window at a time here, upright and turned, without the sliding window's help."""
    tiny_cfg.TEST.WINDOW.STRIDE, tiny_cfg.TEST.WINDOW.ROTATIONS = 12, rotations
    model = build_model(tiny_cfg).eval()
    image = gray(3, 44, 56)
    points = torch.tensor([[3.5, 40.5], [30.5, 20.5], [50.0, 2.0]])
    total, seen = torch.zeros(44, 56), torch.zeros(44, 56)
    for y in (0, 12):
        for x in (0, 12, 24):
            local = points - torch.tensor([x, y])
            local = local[((local >= 0) & (local < SIZE)).all(-1)]
            window = image[:, y : y + SIZE, x : x + SIZE]
            for turns in range(rotations):
                turned = local if turns == 0 else turn_points(local, turns)
                with torch.no_grad():
                    seen_by_model = torch.rot90(window, turns, (1, 2))[None]
                    logits = model.decode(model.encode(seen_by_model), *pad_points([turned]), (SIZE, SIZE)).logits
                total[y : y + SIZE, x : x + SIZE] += torch.rot90(logits[0].sigmoid(), -turns) / rotations
            seen[y : y + SIZE, x : x + SIZE] += 1
    (out,) = model([{"image": image, "prompts": {"all": points}}])
    torch.testing.assert_close(out["sem_seg"]["all"], total / seen)


def turn_points(points: Tensor, turns: int) -> Tensor:
    """Where points of a window lie after so many quarter turns counter-clockwise, by turning a picture of each."""
    turned = []
    for x, y in (2 * points).round().int().tolist():  # half pixels
        picture = torch.zeros(2 * SIZE + 1, 2 * SIZE + 1)
        picture[y, x] = 1
        turned.append(torch.rot90(picture, turns).nonzero()[0].flip(0) / 2)
    return torch.stack(turned) if turned else points


# Without a C++ compiler, which "inductor" needs: "eager" traces the parts, "aot_eager" their gradients, too.
@pytest.mark.long
@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.slow)])
def test_compiled_parts_give_the_same_and_keep_their_names(tiny_cfg: CfgNode, model: PromptDAS, backend: str) -> None:
    tiny_cfg.MODEL.COMPILE = backend
    compiled = build_model(tiny_cfg)
    compiled.load_state_dict(model.state_dict())
    batch = [source(), target()]
    torch.testing.assert_close(compiled(batch), model(batch))
    whole = [{"image": gray(1, 40, 50), "prompts": {"all": POINTS}}]
    torch.testing.assert_close(compiled.eval()(whole), model.eval()(whole))


# ---- clicks


def test_the_paper_s_encoder_leaves_negative_clicks_out(model: PromptDAS, crops: Tensor) -> None:
    positive = np.array([[10.5, 12.5, 1]], np.float32)
    both = np.concatenate([positive, [[20.5, 20.5, 0]]]).astype(np.float32)
    alone, with_negative, unlabeled = (decode(model, crops[:1], [p]) for p in (positive, both, positive[:, :2]))
    torch.testing.assert_close(alone, with_negative)
    torch.testing.assert_close(alone, unlabeled)


def test_a_click_encoder_sees_both_labels(tiny_cfg: CfgNode) -> None:
    tiny_cfg.MODEL.PROMPT_ENCODER.NAME = "ClickPromptEncoder"
    model = build_model(tiny_cfg).eval()
    with torch.no_grad():
        embedding = model.encode(torch.stack([gray(0)]))
    sets = [np.zeros((0, 3)), np.array([[10.5, 12.5, 1]]), np.array([[10.5, 12.5, 0]])]
    none, positive, negative = (decode(model, embedding, [p.astype(np.float32)])[0] for p in sets)
    assert not torch.allclose(none, positive)
    assert not torch.allclose(positive, negative)


def test_contrastive_embeddings_of_what_the_image_shows(tiny_cfg: CfgNode) -> None:
    """They depend on the image and the place alone: the same for any prompts, and other at another place."""
    tiny_cfg.MODEL.DECODER.CONTRASTIVE_FROM = "features"
    model = build_model(tiny_cfg)
    images = torch.stack([gray(0), gray(1)])
    points = torch.tensor([[[4.5, 4.5], [20.5, 12.5]]])
    none, valid = torch.zeros(2, 0, 3), torch.zeros(2, 0, dtype=torch.bool)
    with torch.no_grad():
        embedding = model.encode(images)
        out = model.decode(
            embedding, none, valid, (SIZE, SIZE), contrastive_points=points, contrastive_valid=torch.ones(1, 2) > 0
        )
        swapped = model.decode(
            embedding,
            none,
            valid,
            (SIZE, SIZE),
            contrastive_points=points.flip(1),
            contrastive_valid=torch.ones(1, 2) > 0,
        )
    assert out.contrastive.shape[:2] == (1, 2)
    torch.testing.assert_close(out.contrastive, swapped.contrastive.flip(1))
    assert not torch.allclose(out.contrastive[:, 0], out.contrastive[:, 1])


def test_a_network_learns_to_follow_clicks(tiny_cfg: CfgNode) -> None:
    """One square is foreground where it is clicked, and nothing is where it is not: fifty steps tell the two apart."""
    tiny_cfg.MODEL.PROMPT_ENCODER.NAME = "ClickPromptEncoder"
    torch.manual_seed(0)
    model = build_model(tiny_cfg).train()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    image = torch.full((1, 1, SIZE, SIZE), 128.0)
    points = torch.tensor([[[8.5, 8.5, 1.0]], [[8.5, 8.5, 1.0]]])
    valid = torch.tensor([[True], [False]])
    target = torch.zeros(2, SIZE, SIZE)
    target[0, 4:13, 4:13] = 1
    for _ in range(50):
        logits = model.decode(model.encode(image.expand(2, -1, -1, -1)), points, valid, (SIZE, SIZE)).logits
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert logits[0, 8, 8] > 0 > logits[1].max()


def test_training_with_negative_clicks_needs_an_encoder_that_uses_them(tiny_cfg: CfgNode) -> None:
    tiny_cfg.INPUT.CLICKS.ENABLED = True
    with pytest.raises(ValueError, match=r"INPUT.CLICKS.ENABLED .* PointPromptEncoder leaves them out; use Click"):
        build_model(tiny_cfg)
    tiny_cfg.MODEL.PROMPT_ENCODER.NAME = "ClickPromptEncoder"
    assert build_model(tiny_cfg).prompt_encoder.uses_labels


def test_prompts_of_an_evaluation_may_change_all_of_a_slice(tiny_cfg: CfgNode) -> None:
    """Where the predictor's clicks are limited to their objects, too."""
    tiny_cfg.MODEL.PROMPT_ENCODER.NAME, tiny_cfg.TEST.CLICK_REACH = "ClickPromptEncoder", "object"
    model = build_model(tiny_cfg).eval()
    x = {"image": gray(0), "prompts": {"none": np.zeros((0, 2), np.float32), "one": np.array([[4.5, 4.5]], np.float32)}}
    (evaluated,) = model([x])
    limited = model.predict_slice(x["image"], x["prompts"], (SIZE, SIZE))
    assert torch.equal(evaluated["sem_seg"]["none"], limited["sem_seg"]["none"])
    assert (evaluated["sem_seg"]["one"] != evaluated["sem_seg"]["none"]).float().mean() > 0.99
    changed = limited["sem_seg"]["one"] != limited["sem_seg"]["none"]
    assert not changed.all()


def test_the_dice_loss_has_its_own_weight(tiny_cfg: CfgNode) -> None:
    samples = [source(), target()]
    assert not {"loss_dice_source", "loss_dice_target"} & set(build_model(tiny_cfg)(samples))
    losses = {}
    for weight in (0.5, 1.0):
        tiny_cfg.MODEL.LOSS.DICE_WEIGHT = weight
        torch.manual_seed(0)
        losses[weight] = build_model(tiny_cfg)(samples)
    for name in ("loss_dice_source", "loss_dice_target"):
        assert losses[1.0][name].item() == pytest.approx(2 * losses[0.5][name].item())
        assert losses[1.0][name] > 0.01


# ---- high-resolution features


@pytest.fixture
def fine_model(tiny_cfg: CfgNode) -> PromptDAS:
    tiny_cfg.MODEL.DECODER.HIGH_RES_FEATURES = True
    return build_model(tiny_cfg)


def test_all_high_resolution_weights_are_trained(fine_model: PromptDAS) -> None:
    losses = fine_model([source(), target()])
    assert_trains(fine_model, losses)
    fine = [p for name, p in fine_model.named_parameters() if "high_res" in name or "upsampling" in name]
    assert fine
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in fine)


def test_high_resolution_features_do_not_pass_through_the_patch_tokens(fine_model: PromptDAS) -> None:
    """With the embedding of another image, a change of its own pixels still reaches the mask, and only nearby."""
    fine_model.eval()
    dim = fine_model.decoder.dim
    image = gray(0)[None]
    changed = image.clone()
    changed[..., 8:10, 8:10] = 255 - changed[..., 8:10, 8:10]
    with torch.no_grad():
        embedding, other = fine_model.encode(image), fine_model.encode(changed)
        assert embedding.shape[1] == 4 * dim
        mixed = torch.cat([embedding[:, :dim], other[:, dim:]], dim=1)
        masks = [fine_model.decode(e, torch.zeros(1, 0, 2), NOBODY, (SIZE, SIZE)).logits for e in (embedding, mixed)]
    difference = (masks[0] - masks[1])[0].abs()
    assert difference[4:14, 4:14].max() > 10 * difference[24:, 24:].max()


def test_high_resolution_features_need_a_patch_that_can_be_halved_twice(tiny_cfg: CfgNode) -> None:
    tiny_cfg.MODEL.DECODER.HIGH_RES_FEATURES = True
    tiny_cfg.MODEL.VIT.PATCH_SIZE = 2
    with pytest.raises(ValueError, match="HIGH_RES_FEATURES needs a MODEL"):
        build_model(tiny_cfg)


# ---- outlines


def with_outline(tiny_cfg: CfgNode, model: PromptDAS, probability: float) -> PromptDAS:
    """The same network with outlines elsewhere."""
    cfg = tiny_cfg.clone()
    cfg.MODEL.SEM_SEG_HEAD.OUTLINE_PROBABILITY = probability
    moved = build_model(cfg)
    moved.load_state_dict(model.state_dict())
    return moved


def test_the_probability_of_an_outline_becomes_one_half(tiny_cfg: CfgNode, model: PromptDAS) -> None:
    image = gray(0)
    before = model.eval().predict_slice(image, {"0%": NONE}, (SIZE, SIZE))["sem_seg"]["0%"]
    outline = float(before.quantile(0.7))
    after = with_outline(tiny_cfg, model, outline).eval().predict_slice(image, {"0%": NONE}, (SIZE, SIZE))
    clear = (before - outline).abs() > 1e-4  # rounding decides the others
    assert 0 < (before > outline).sum() < before.numel()
    assert torch.equal((after["sem_seg"]["0%"] > 0.5)[clear], (before > outline)[clear])


@pytest.mark.parametrize(
    ("confidence", "outline", "expected"),
    [
        (0.9, 0.5, 0.9),
        (0.9, 0.75, 0.75),  # odds of 9, and of 3 at the outline: 9 / 3 = 3
        (0.75, 0.9, 0.25),
        (0.0, 0.9, 0.0),
        (1.0, 0.9, 1.0),
    ],
)
def test_confidence_is_the_networks_own_wherever_outlines_lie(
    tiny_cfg: CfgNode, confidence: float, outline: float, expected: float
) -> None:
    tiny_cfg.TEST.MIN_CONFIDENCE, tiny_cfg.MODEL.SEM_SEG_HEAD.OUTLINE_PROBABILITY = confidence, outline
    assert PromptDAS(tiny_cfg).rules.min_confidence == pytest.approx(expected)


def test_an_outline_that_moves_leaves_source_losses(tiny_cfg: CfgNode, model: PromptDAS) -> None:
    """Source masks are drawn where the network was trained to draw; targets follow the shifted mask."""
    moved = with_outline(tiny_cfg, model, 0.8)
    batch = [source(0), target(0)]
    before, after = model.train()(batch), moved.train()(batch)
    for name in SOURCE_LOSSES:
        torch.testing.assert_close(after[name], before[name], rtol=1e-5, atol=1e-6)
    assert abs(after["loss_seg_target"] - before["loss_seg_target"]) > 1e-3
