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
Row = tuple[str, Run, str]  # title, training, prompts at test

# The keys of configs/paper, each alone.
PAPER_ENCODER = ("MODEL.PROMPT_ENCODER.NAME", "PointPromptEncoder")
PAPER_TARGETS = ("INPUT.CLICKS.ENABLED", "False")
PAPER_PROMPTS = ("DOMAIN_ADAPT.UNPROMPTED_PROBABILITY", "0.0")
PAPER_MASKS = ("DOMAIN_ADAPT.MASKS.REQUIRE_PEAK", "False")
PAPER_REACH = ("TEST.CLICK_REACH", "image")
PAPER = (*PAPER_ENCODER, *PAPER_TARGETS, *PAPER_PROMPTS, *PAPER_MASKS, *PAPER_REACH)
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
POINTS, MASKS, PROMPTS, CONTRASTIVE = SWITCHES
ABLATION: list[Row] = [
    ("Source", SOURCE, "0%"),
    ("+ point pseudo-labels", ablation("ablation_points", POINTS), "0%"),
    ("+ mask pseudo-labels", ablation("ablation_masks", MASKS), "0%"),
    ("+ both", ablation("ablation_both", POINTS, MASKS), "0%"),
    ("+ masks, prompts", ablation("ablation_masks_prompts", MASKS, PROMPTS), "0%"),
    ("+ both, prompts", ablation("ablation_both_prompts", POINTS, MASKS, PROMPTS), "0%"),
    ("+ both, prompts, contrastive", WDA, "0%"),
    ("Supervised", ORACLE, "0%"),
]
TEST_PROMPTS: list[Row] = [
    ("Source", SOURCE, "0%"),
    *[(f"15 % model, {ratio} prompts", WDA, ratio) for ratio in ("0%", "15%", "50%", "100%")],
    ("Supervised", ORACLE, "0%"),
]

CONTRASTIVE_FEATURES = ("MODEL.DECODER.CONTRASTIVE_FROM", "features", "MODEL.LOSS.CONTRASTIVE_CENTERED", "True")
PARTS: list[Row] = [  # what is not in the paper, with all centers clicked in every other row
    (title, run, ratio)
    for title, run in (
        ("The paper's recipe", Run("paper", "wda", PAPER, PAPER_SOURCE)),
        ("The paper's, masks need a peak", Run("paper_peaks", "wda", (*PAPER, *PAPER_MASKS[:1], "True"), PAPER_SOURCE)),
        ("Dense clicks, targets as in the paper", Run("dense", "wda", DENSE_SOURCE.overrides, DENSE_SOURCE)),
        ("All but unprompted target crops", Run("without_unprompted", "wda", PAPER_PROMPTS)),
        ("All but masks that need a peak", Run("without_peaks", "wda", PAPER_MASKS)),
        ("All", WDA),
        ("All, high-resolution features", Run("fine", "wda", FINE, FINE_SOURCE)),
        ("All, a Dice loss", Run("dice", "wda", DICE_LOSS, DICE_SOURCE)),
        ("All, contrastive features", Run("contrastive_features", "wda", CONTRASTIVE_FEATURES)),
        ("All, no contrastive loss", Run("no_contrastive", "wda", ("DOMAIN_ADAPT.USE_CONTRASTIVE", "False"))),
    )
    for ratio in ("0%", "100%")
]
CLICKED: dict[str, Run] = {"Source": SOURCE, "0 % model": UDA, "15 % model": WDA}
