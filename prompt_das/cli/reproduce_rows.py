"""What the tables consist of: for each row a training, what it overrides, and the prompts at its test."""

from __future__ import annotations

from dataclasses import dataclass

SWITCHES = ("POINT_PSEUDO_LABELS", "MASK_PSEUDO_LABELS", "PROMPTS", "CONTRASTIVE")


@dataclass(frozen=True)
class Run:
    """One training: a folder name, the mode whose config it uses, what it overrides, and the source it starts from."""

    name: str
    mode: str
    overrides: tuple[str, ...] = ()
    source: Run | None = None  # None: SOURCE, where the mode adapts

    @property
    def adapts(self) -> bool:
        return self.mode in ("uda", "wda")


def ablation(name: str, *on: str) -> Run:
    """A weakly supervised run with only some components of the method switched on."""
    values = [(f"DOMAIN_ADAPT.USE_{switch}", str(switch in on)) for switch in SWITCHES]
    return Run(name, "wda", tuple(word for pair in values for word in pair))


SOURCE, UDA, WDA, ORACLE = (Run(mode, mode) for mode in ("source", "uda", "wda", "oracle"))


def source_of(run: Run) -> Run | None:
    """The run whose network another one starts from; None for what starts from nothing."""
    return (run.source or SOURCE) if run.adapts else None


Row = tuple[str, Run, str]  # title, training, prompts at test

# The keys of configs/paper, each alone.
PAPER_ENCODER = ("MODEL.PROMPT_ENCODER.NAME", "PointPromptEncoder")
PAPER_TARGETS = ("INPUT.CLICKS.ENABLED", "False")
PAPER_PROMPTS = ("DOMAIN_ADAPT.UNPROMPTED_PROBABILITY", "0.0")
PAPER_MASKS = ("DOMAIN_ADAPT.MASKS.REQUIRE_PEAK", "False")
PAPER_REACH = ("TEST.CLICK_REACH", "image")
# What configs/quick changes beside the size.
CONTRASTIVE_ON = ("DOMAIN_ADAPT.USE_CONTRASTIVE", "True")
ALL_COMPONENTS = ("DOMAIN_ADAPT.MASKS.MIN_CONFIDENCE", "0.0", "TEST.MIN_CONFIDENCE", "0.0")
UNCERTAIN_POINTS = ("DOMAIN_ADAPT.POINTS.SUPERVISION_RADIUS", "0.0")
PAPER = (
    *(*PAPER_ENCODER, *PAPER_TARGETS, *PAPER_PROMPTS, *PAPER_MASKS, *PAPER_REACH),
    *(*CONTRASTIVE_ON, *ALL_COMPONENTS, *UNCERTAIN_POINTS),
)
PAPER_SOURCE = Run("paper_source", "source", PAPER)
DENSE_SOURCE = Run("dense_source", "source", (*PAPER_TARGETS, *PAPER_REACH))
# Those of configs/quick/em_small.yaml.
FINE = ("MODEL.DECODER.HIGH_RES_FEATURES", "True")
DICE_LOSS = ("MODEL.LOSS.DICE_WEIGHT", "0.5")
FINE_SOURCE = Run("fine_source", "source", FINE)
DICE_SOURCE = Run("dice_source", "source", DICE_LOSS)

MAIN: list[Row] = [
    ("Source", SOURCE, "0%"),
    ("Source+", SOURCE, "100%"),
    ("Prompt-DAS (0 %)", UDA, "0%"),
    ("Prompt-DAS (0 %)+", UDA, "100%"),
    ("Prompt-DAS (15 %)", WDA, "0%"),
    ("Prompt-DAS (15 %)+", WDA, "100%"),
    ("Supervised", ORACLE, "0%"),
]
TOKENS = Run("contrastive_tokens", "wda", CONTRASTIVE_ON)
NO_CONTRASTIVE = Run("no_contrastive", "wda", ("DOMAIN_ADAPT.USE_CONTRASTIVE", "False"))


def ablation_rows(size: str) -> list[Row]:
    """Table 2. The configs of the quick size have no contrastive loss, those of the paper's have one."""
    points, masks, prompts, _ = SWITCHES
    without, full = (WDA, TOKENS) if size == "quick" else (NO_CONTRASTIVE, WDA)
    return [
        ("Source", SOURCE, "0%"),
        ("+ point pseudo-labels", ablation("ablation_points", points), "0%"),
        ("+ mask pseudo-labels", ablation("ablation_masks", masks), "0%"),
        ("+ both", ablation("ablation_both", points, masks), "0%"),
        ("+ masks, prompts", ablation("ablation_masks_prompts", masks, prompts), "0%"),
        ("+ both, prompts", without, "0%"),
        ("+ both, prompts, contrastive", full, "0%"),
        ("Supervised", ORACLE, "0%"),
    ]


TEST_PROMPTS: list[Row] = [
    ("Source", SOURCE, "0%"),
    *[(f"15 % model, {ratio} prompts", WDA, ratio) for ratio in ("0%", "15%", "50%", "100%")],
    ("Supervised", ORACLE, "0%"),
]

FEATURES = ("MODEL.DECODER.CONTRASTIVE_FROM", "features", "MODEL.LOSS.CONTRASTIVE_CENTERED", "True")


def parts_rows(size: str) -> list[Row]:
    """What is not in the paper, with all centers clicked in every other row."""
    of_size = {
        "quick": (
            ("All but points that supervise", Run("uncertain_points", "wda", UNCERTAIN_POINTS)),
            ("All but confident components", Run("all_components", "wda", ALL_COMPONENTS)),
            ("All, contrastive tokens", TOKENS),
        ),
        "paper": (("All but contrastive tokens", NO_CONTRASTIVE),),
    }
    parts = (
        ("The paper's recipe", Run("paper", "wda", PAPER, PAPER_SOURCE)),
        ("The paper's, masks need a peak", Run("paper_peaks", "wda", (*PAPER, *PAPER_MASKS[:1], "True"), PAPER_SOURCE)),
        ("Dense clicks, targets as in the paper", Run("dense", "wda", DENSE_SOURCE.overrides, DENSE_SOURCE)),
        ("All but unprompted target crops", Run("without_unprompted", "wda", PAPER_PROMPTS)),
        ("All but masks that need a peak", Run("without_peaks", "wda", PAPER_MASKS)),
        ("All", WDA),
        *of_size[size],
        ("All, high-resolution features", Run("fine", "wda", FINE, FINE_SOURCE)),
        ("All, a Dice loss", Run("dice", "wda", DICE_LOSS, DICE_SOURCE)),
        ("All, contrastive features", Run("contrastive_features", "wda", (*CONTRASTIVE_ON, *FEATURES))),
    )
    return [(title, run, ratio) for title, run in parts for ratio in ("0%", "100%")]


CLICKED: dict[str, Run] = {"Source": SOURCE, "0 % model": UDA, "15 % model": WDA}
