"""Forward pass and training step: prompt_das against one image, one point at a time, with the same weights.

The peer (one_image_at_a_time.py) is what a straightforward research implementation does. Measured are the forward pass
from one image to its mask, the forward pass of an evaluation (4 windows, each with 4 prompt sets), and a whole training
step at the config's batch: the teacher's two passes, forward, backward, optimizer and moving average. In float32 the
answers, losses and gradients of the two are compared in the same run.
"""

from __future__ import annotations

import argparse
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from prompt_das.adaptation.mean_teacher import MovingAverage, make_teacher
from prompt_das.adaptation.pseudo_labels import PseudoLabeler
from prompt_das.config.load import get_prompt_das_cfg
from prompt_das.engine.solver import build_optimizer
from prompt_das.modeling import PromptDAS
from prompt_das.modeling.load import build_model, resolve_device
from prompt_das.modeling.precision import computed_precision
from prompt_das.ops.points import find_peaks, pad_points

import torch
from detectron2.config import CfgNode
from tabulate import tabulate
from torch import Tensor, nn

from . import one_image_at_a_time
from .measure import in_fresh_process, interleaved, peak_memory, ratio, seconds, show, spread
from .model import CONFIG_OF_SIZE, POINTS_PER_IMAGE, training_batch
from .one_image_at_a_time import OneImageAtATime

OURS, PEER = "prompt_das", "one image at a time"
WINDOWS = 4
PROMPT_RATIOS = (0.0, 0.15, 0.5, 1.0)  # what an evaluation gives as prompts
PARTS = ("teacher", "forward", "backward", "optimizer", "EMA")
EMA_DECAY = 0.99
TOLERANCE = 1e-3  # of a relative difference in float32
MANY = 1000  # peaks, more than are left

Results = dict[str, list[Tensor]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", nargs="+", choices=list(CONFIG_OF_SIZE), default=list(CONFIG_OF_SIZE))
    parser.add_argument("opts", nargs="*", default=[], help="overrides of the config, after --: KEY VALUE ...")


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    return [
        result
        for size in args.size
        for precision in dict.fromkeys(["float32", precision_of(config(size, None, args.opts))])
        for result in benchmark_step(size, precision, args.repeats, args.seed, args.opts)
    ]


def precision_of(cfg: CfgNode) -> str:
    """The precision that a config is computed in on its device."""
    return computed_precision(cfg.MODEL.PRECISION, resolve_device(cfg))


def report(results: list[dict[str, Any]]) -> str:
    rows, parts = [], []
    for r in results:
        difference = r["largest relative difference"]
        rows.append(
            [
                f"{r['size']}, {r['precision']}",
                r["what"],
                *(show(r["seconds"][name], 2) for name in (OURS, PEER)),
                f"{r['ratio']:.2f} ×",
                " / ".join(f"{r['peak memory, MB'][name]:.0f}" for name in (OURS, PEER)),
                ", ".join(f"{name} {value:.0e}" for name, value in difference.items()),
            ]
        )
        if "parts, s" in r:
            taken = (f"{r['parts, s'][OURS][part]:.2f} / {r['parts, s'][PEER][part]:.2f}" for part in PARTS)
            parts.append([f"{r['size']}, {r['precision']}", *taken])
    header = ["network", "what", f"{OURS}, s", f"{PEER}, s", "ratio", "peak memory of both, MB"]
    header += ["largest relative difference"]
    return "\n\n".join(
        [
            tabulate(rows, header, tablefmt="github", disable_numparse=True),
            tabulate(parts, ["training step of both, s", *PARTS], tablefmt="github", disable_numparse=True),
        ]
    )


def benchmark_step(size: str, precision: str, repeats: int, seed: int, opts: list[str]) -> list[dict[str, Any]]:
    """Seconds and peak memory of both. Raises RuntimeError if they do not compute the same in float32."""
    cfg = config(size, precision, opts)
    memory = {name: in_fresh_process(memory_of, name, size, precision, seed, opts, exact_memory=True) for name in SIDES}
    print(f"{size}, {precision}: peak memory in bytes {memory}")  # the peer may need more than there is
    sides = {name: build_side(cfg, seed) for name, build_side in SIDES.items()}
    device = sides[OURS].device
    results = []
    for what, run_it in WHAT.items():
        found: dict[str, Results] = {}
        runs = {name: partial(keep_first, found, name, run_it, side) for name, side in sides.items()}
        times = interleaved(runs, repeats, device)
        result = {
            "size": size,
            "precision": precision,
            "what": what,
            "seconds": {name: spread(taken) for name, taken in times.items()},
            "ratio": ratio(times[PEER], times[OURS]),
            "peak memory, MB": {name: of_side[what] / 1e6 for name, of_side in memory.items()},
            "largest relative difference": compare(found[OURS], found[PEER], what) if precision == "float32" else {},
        }
        if what == "training step":
            result["parts, s"] = {
                name: {part: spread(side.times[part][-len(times[name]) :])["median"] for part in PARTS}
                for name, side in sides.items()
            }
            result["peaks of the teacher"] = sides[OURS].peaks
        print(f"{size}, {precision}, {what}:", " / ".join(show(spread(taken), 2) for taken in times.values()), "s")
        results.append(result)
    return results


def keep_first(found: dict[str, Results], name: str, run_it: Callable[[Side], Results], side: Side) -> None:
    """Run, and keep the first results: those of equal weights."""
    found.setdefault(name, run_it(side))


def memory_of(name: str, size: str, precision: str, seed: int, opts: list[str]) -> dict[str, int]:
    """Bytes at the peak of each, in the order of what they need; the training step adds gradients and moments."""
    side = SIDES[name](config(size, precision, opts), seed)
    return {what: peak_memory(partial(run_it, side), side.device) for what, run_it in WHAT.items()}


def compare(ours: Results, peer: Results, what: str) -> dict[str, float]:
    """The largest |ours - peer| of each result, in units of its largest value."""
    differences = {}
    for name, tensors in ours.items():
        pairs = list(zip(tensors, peer[name], strict=True))
        largest = torch.stack([b.abs().max() for _, b in pairs]).max()
        differences[name] = float(torch.stack([(a - b).abs().max() for a, b in pairs]).max() / largest)
        if not differences[name] <= TOLERANCE:
            raise RuntimeError(
                f"{what}: {name} of {OURS} and {PEER} differ by {differences[name]:.1e} of the largest value, "
                f"more than {TOLERANCE:.0e}: they do not compute the same"
            )
    return differences


def config(size: str, precision: str | None, opts: list[str]) -> CfgNode:
    """The paper's network in a size, which is what the other side is; without ``precision``, in the size's own."""
    paper = ["MODEL.PROMPT_ENCODER.NAME", "PointPromptEncoder", "INPUT.CLICKS.ENABLED", "False"]
    paper += ["MODEL.DECODER.HIGH_RES_FEATURES", "False", "MODEL.LOSS.DICE_WEIGHT", "0.0"]
    paper += ["MODEL.DECODER.CONTRASTIVE_FROM", "tokens", "MODEL.LOSS.CONTRASTIVE_CENTERED", "False"]
    paper += ["DOMAIN_ADAPT.USE_CONTRASTIVE", "True"]
    fixed = ["VIS_PERIOD", "0", "MODEL.VIT.WEIGHTS", "", *paper]
    cfg = get_prompt_das_cfg(str(CONFIG_OF_SIZE[size]), [*fixed, *opts])
    if precision is not None:
        cfg.defrost()
        cfg.MODEL.PRECISION = precision
        cfg.freeze()
    return cfg


class Side(ABC):
    """One of the two: an untrained network with its teacher, an optimizer and what they look at, all from the seed."""

    def __init__(self, cfg: CfgNode, seed: int) -> None:
        torch.manual_seed(seed)
        self.network: Any = build_model(cfg)
        self.cfg, self.device, side = cfg, self.network.device, cfg.INPUT.CROP_SIZE
        self.size = (side, side)
        self.windows = 255 * torch.rand(WINDOWS, 1, side, side, device=self.device)
        counts = [math.ceil(share * POINTS_PER_IMAGE) for share in PROMPT_RATIOS]
        self.prompt_sets = [[torch.rand(n, 2) * side for n in counts] for _ in range(WINDOWS)]
        self.batch = training_batch(cfg)
        self.targets = 255 * torch.rand(cfg.DATALOADER.TARGET_IMS_PER_BATCH, 1, side, side, device=self.device)
        self.sparse = [torch.rand(1, 2) * side for _ in self.targets]
        points = cfg.DOMAIN_ADAPT.POINTS
        self.peak_options = {"threshold": points.THRESHOLD, "kernel": points.KERNEL, "top_k": points.TOP_K}
        self.peaks = self.leave_few_peaks()
        self.teacher = cast(PromptDAS, make_teacher(self.network))
        self.network.train()
        self.optimizer = self.build_optimizer()
        self.times: dict[str, list[float]] = {part: [] for part in PARTS}

    @torch.no_grad()
    def leave_few_peaks(self) -> int:
        """Shift the center head so that the teacher finds about as many peaks as a crop has instances -> how many."""
        sparse, valid = pad_points(self.sparse, self.device)
        density = self.network.decode(
            self.network.encode(self.targets), sparse, valid, self.size, with_mask=False
        ).density
        _, found, scores = find_peaks(density, -math.inf, self.peak_options["kernel"], MANY)
        highest = scores[found].sort(descending=True).values
        wanted = min(POINTS_PER_IMAGE * len(self.targets), len(highest) - 1)
        between = highest[wanted - 1 : wanted + 1].mean()
        self.network.center_head.fine[-1].bias += self.peak_options["threshold"] - between
        return wanted

    def step(self) -> Results:
        """A training step -> what the teacher says, the losses, and the gradients as the optimizer leaves them."""
        results: Results = {}

        def teacher() -> None:
            results.update(self.predict_teacher())

        def forward() -> None:
            results["losses"] = [loss for _, loss in sorted(self.losses().items())]

        def backward() -> None:
            torch.stack(results["losses"]).sum().backward()

        work = {
            "teacher": teacher,
            "forward": forward,
            "backward": backward,
            "optimizer": self.move_student,
            "EMA": self.move_teacher,
        }
        self.optimizer.zero_grad()
        for part in PARTS:
            self.times[part].append(seconds(work[part], self.device))
        results["gradients"] = [p.grad for p in self.network.parameters() if p.grad is not None]
        return {name: [x.detach() for x in tensors] for name, tensors in results.items()}

    @abstractmethod
    def forward(self) -> Results:
        """One window with as many prompts as it has instances -> the logits."""

    @abstractmethod
    def evaluate(self) -> Results:
        """All windows, each with all prompt sets -> the logits of each window and set."""

    @abstractmethod
    def predict_teacher(self) -> Results:
        """What the teacher says about the target images: probabilities and densities."""

    @abstractmethod
    def losses(self) -> dict[str, Tensor]:
        """The losses of the training batch."""

    def build_optimizer(self) -> torch.optim.Optimizer:
        return build_optimizer(self.cfg, self.network)

    @abstractmethod
    def move_student(self) -> None:
        """Clip the gradient, and take a step of AdamW."""

    @abstractmethod
    def move_teacher(self) -> None:
        """The teacher's moving average."""


class Ours(Side):
    def __init__(self, cfg: CfgNode, seed: int) -> None:
        super().__init__(cfg, seed)
        self.average = MovingAverage(self.teacher, self.network)
        self.labeler = PseudoLabeler(cfg, self.teacher, lambda metrics: None, recall_period=0)

    def forward(self) -> Results:
        return self.predict(self.windows[:1], [self.prompt_sets[0][-1:]])

    def evaluate(self) -> Results:
        return self.predict(self.windows, self.prompt_sets)

    @torch.no_grad()
    def predict(self, windows: Tensor, prompt_sets: list[list[Tensor]]) -> Results:
        points, valid = pad_points([points for of_window in prompt_sets for points in of_window], self.device)
        points, valid = (x.unflatten(0, (len(windows), -1)) for x in (points, valid))
        return {"logits": list(self.network.decode_windows(windows, points, valid, with_density=False).logits)}

    def predict_teacher(self) -> Results:
        sparse, negative = (pad_points(points, self.device) for points in (self.sparse, [p[:0] for p in self.sparse]))
        probability, density, *_ = self.labeler.predict_teacher(self.targets, *sparse, *negative)
        return {"probability": list(probability), "density": list(density)}

    def losses(self) -> dict[str, Tensor]:
        return self.network.losses(self.batch)

    def move_student(self) -> None:
        self.optimizer.step()  # clips as well

    def move_teacher(self) -> None:
        self.average.update(EMA_DECAY)


class Peer(Side):
    def __init__(self, cfg: CfgNode, seed: int) -> None:
        super().__init__(cfg, seed)
        self.plain, self.plain_teacher = OneImageAtATime(self.network), OneImageAtATime(self.teacher)

    @torch.no_grad()
    def forward(self) -> Results:
        (answer,) = self.plain.predict(self.windows[:1], self.prompt_sets[0][-1:])
        return {"logits": [answer.logits]}

    @torch.no_grad()
    def evaluate(self) -> Results:
        of_sets = [self.plain.predict(self.windows, list(points)) for points in zip(*self.prompt_sets, strict=True)]
        return {"logits": [answer.logits for of_window in zip(*of_sets, strict=True) for answer in of_window]}

    def predict_teacher(self) -> Results:
        radius = self.cfg.MODEL.CENTER_HEAD.SIGMA
        probability, density = self.plain_teacher.predict_teacher(
            self.targets, self.sparse, radius, **self.peak_options
        )
        return {"probability": probability, "density": density}

    def losses(self) -> dict[str, Tensor]:
        return self.plain.losses(self.batch)

    def build_optimizer(self) -> torch.optim.Optimizer:
        groups = [
            {"params": group["params"], "weight_decay": group["weight_decay"]}
            for group in super().build_optimizer().param_groups
        ]
        return one_image_at_a_time.build_optimizer(groups, self.cfg.SOLVER.BASE_LR)

    def move_student(self) -> None:
        nn.utils.clip_grad_norm_(self.network.parameters(), self.cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE, foreach=False)
        self.optimizer.step()

    def move_teacher(self) -> None:
        one_image_at_a_time.update_teacher(self.teacher, self.network, EMA_DECAY)


SIDES: dict[str, type[Side]] = {OURS: Ours, PEER: Peer}
WHAT: dict[str, Callable[[Side], Results]] = {
    "forward, 1 window": lambda side: side.forward(),
    f"forward, {WINDOWS} windows × {len(PROMPT_RATIOS)} prompt sets": lambda side: side.evaluate(),
    "training step": lambda side: side.step(),
}
