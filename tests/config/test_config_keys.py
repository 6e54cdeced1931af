"""Every key has a reader, and every config file means what it says."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prompt_das.config.defaults import add_prompt_das_config
from prompt_das.config.load import get_prompt_das_cfg
from prompt_das.config.schedule import adaptation_start, burn_in_iters, num_iterations
from prompt_das.data.datasets import ensure_registered
from prompt_das.ops.connected_components import FOREGROUND_THRESHOLD, MIN_INSTANCE_SIZE
from prompt_das.ops.points import DENSITY_SIGMA, PEAK_THRESHOLD
from prompt_das_cli import build_parser

import pytest
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
LEAVES = [path for path in CONFIGS if not path.stem.endswith("PromptDAS")]
SWITCHED = ("source", "uda", "wda", "oracle")


def keys(node: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All leaves of a config, as (dotted name, value)."""
    for name, value in node.items():
        if isinstance(value, CfgNode):
            yield from keys(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def dotted(expression: ast.expr, meanings: dict[str, str]) -> str | None:
    """``cfg.MODEL.VIT`` -> "MODEL.VIT"; also below ``self.cfg`` and names that stand for a part of a config."""
    parts: list[str] = []
    while isinstance(expression, ast.Attribute) and expression.attr != "cfg":
        parts.insert(0, expression.attr)
        expression = expression.value
    if isinstance(expression, ast.Attribute):  # self.cfg, trainer.cfg
        return ".".join(parts)
    if isinstance(expression, ast.Name) and expression.id in meanings:
        return ".".join(part for part in (meanings[expression.id], *parts) if part)
    return None


def read_in_function(function: ast.AST) -> set[str]:
    """The parts of a config that a function reads, following ``node = cfg.MODEL.VIT``."""
    meanings = {"cfg": ""}
    reads = set()
    for statement in ast.walk(function):  # an assignment comes before the uses of its name, in breadth-first order too
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            part = dotted(statement.value, meanings)
            if part:
                meanings[statement.targets[0].id] = part
    for expression in ast.walk(function):
        if isinstance(expression, ast.Attribute) and isinstance(expression.ctx, ast.Load):
            part = dotted(expression, meanings)
            if part:
                reads.add(part)
    return reads


@functools.cache
def read_in_file(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text())
    functions = [f for f in ast.walk(tree) if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef)]
    return frozenset().union(*map(read_in_function, functions))


def read_by_us() -> frozenset[str]:
    files = [*(ROOT / "prompt_das").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    return frozenset().union(*(read_in_file(path) for path in files if path.name != "config.py"))


# ---- keys


def test_the_keys_that_a_function_reads_are_found() -> None:
    """What this file's own tests stand on."""
    code = """
def build(cfg, other):
    node = cfg.MODEL.VIT
    head = cfg.MODEL.HEAD
    deep = head.DEEP
    other.NOT_A_KEY
    cfg.SOLVER.WRITTEN = 1
    return node.DEPTH, deep.NAME, self.cfg.TEST.SEED, [cfg.SEED for _ in range(3)]
"""
    reads = read_in_function(ast.parse(code).body[0])
    assert {"MODEL.VIT.DEPTH", "MODEL.HEAD.DEEP.NAME", "TEST.SEED", "SEED"} <= reads
    assert not {"NOT_A_KEY", "SOLVER.WRITTEN"} & reads


def added_or_changed() -> dict[str, Any]:
    ours, theirs = get_cfg(), dict(keys(get_cfg()))
    add_prompt_das_config(ours)
    return {name: value for name, value in keys(ours) if name not in theirs or theirs[name] != value}


def test_every_key_that_we_add_or_change_has_a_reader() -> None:
    """Unbiased Teacher has six keys that nobody reads: whoever sets them is misled."""
    reads = read_by_us()
    assert {name for name in added_or_changed() if name not in reads} == set()


def test_every_key_that_is_read_exists() -> None:
    """A misspelt key in a branch that is seldom taken would be found by a user."""
    cfg = get_cfg()
    add_prompt_das_config(cfg)
    parts = {".".join(name.split(".")[:i]) for name, _ in keys(cfg) for i in range(1, 10)}
    unknown = {read for read in read_by_us() if read not in parts and not hasattr(CfgNode, read.rpartition(".")[2])}
    assert not unknown


def test_values_of_the_authors_are_the_same_in_the_config_and_in_the_operators() -> None:
    """Written twice, since ``config`` and ``ops`` are on one floor."""
    cfg = get_prompt_das_cfg()
    assert cfg.TEST.MIN_INSTANCE_SIZE == MIN_INSTANCE_SIZE
    assert cfg.MODEL.CENTER_HEAD.SIGMA == DENSITY_SIGMA
    assert cfg.DOMAIN_ADAPT.POINTS.THRESHOLD == cfg.DOMAIN_ADAPT.POINTS.UDA_THRESHOLD == PEAK_THRESHOLD


def test_the_threshold_of_the_command_line_is_that_of_the_operators() -> None:
    """Written twice, since ``--help`` does not import the package."""
    words = ["predict", "--weights", "w.pth", "--input", "scans", "--output", "out.zarr"]
    assert build_parser().parse_args(words).threshold == FOREGROUND_THRESHOLD


# ---- config files


def load(path: Path, *opts: str) -> CfgNode:
    return get_prompt_das_cfg(str(path), list(opts))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT / "configs")))
def test_a_config_file_loads(path: Path) -> None:
    """With no key that does not exist, and no settings that contradict each other."""
    cfg = load(path)
    assert cfg.is_frozen()
    assert len(path.read_text().splitlines()) <= 20  # leaves are short: they say only what differs


def test_there_is_a_leaf_for_every_pair_and_mode_in_every_size() -> None:
    expected = {f"{pair}_{mode}.yaml" for pair in ("rat2human", "human2rat", "vnc2lucchi") for mode in SWITCHED}
    expected |= {f"quick/{pair}_{mode}.yaml" for pair in ("vnc2lucchi", "synthetic") for mode in SWITCHED}
    expected |= {f"paper/{pair}_wda.yaml" for pair in ("rat2human", "vnc2lucchi")}
    expected |= {"quick/em_small.yaml"}
    assert {str(path.relative_to(ROOT / "configs")) for path in LEAVES} == expected


@pytest.mark.parametrize("path", LEAVES, ids=lambda path: str(path.relative_to(ROOT / "configs")))
def test_a_leaf_names_registered_data_sets(path: Path, forget_new_names: None) -> None:
    cfg = load(path)
    names = [name for split in ("TRAIN", "TARGET", "VAL", "TEST") for name in cfg.DATASETS[split]]
    ensure_registered(names)
    assert set(names) <= set(DatasetCatalog.list())
    assert cfg.DATASETS.TRAIN
    assert cfg.DATASETS.TEST or cfg.DATASETS.TRAIN == ("synthetic",)


def slices_of(names: tuple[str, ...]) -> set[tuple[str, int]]:
    """The slices that names like "lucchi_train[0:27]" mean, if they have at most 1000."""
    found = set()
    for name in names:
        base, _, part = name.partition("[")
        start, stop = part.rstrip("]").split(":") if part else ("", "")
        found |= {(base, z) for z in range(int(start or 0), int(stop or 1000))}
    return found


@pytest.mark.parametrize("path", LEAVES, ids=lambda path: str(path.relative_to(ROOT / "configs")))
def test_no_slice_is_both_learned_from_and_tested(path: Path) -> None:
    """Nor does a slice that chooses the best checkpoint serve for anything else."""
    data = load(path).DATASETS
    learned, val, test = slices_of((*data.TRAIN, *data.TARGET)), slices_of(data.VAL), slices_of(data.TEST)
    assert not learned & val
    assert not learned & test
    assert not val & test


@pytest.mark.parametrize("path", LEAVES, ids=lambda path: str(path.relative_to(ROOT / "configs")))
def test_a_leaf_is_the_mode_that_its_name_says(path: Path) -> None:
    cfg = load(path)
    mode = path.stem.rpartition("_")[2]
    assert cfg.DOMAIN_ADAPT.ENABLED is (mode in ("uda", "wda"))
    assert bool(cfg.DATASETS.TARGET) is (mode in ("uda", "wda"))
    assert (0.0 if mode == "uda" else 0.15) == cfg.DATASETS.SPARSE_POINTS.RATIO
    assert path.stem in cfg.OUTPUT_DIR


@pytest.mark.parametrize(
    "path", [p for p in LEAVES if p.stem.endswith("_source")], ids=lambda path: str(path.relative_to(ROOT / "configs"))
)
def test_the_source_leaf_is_the_burn_in_of_the_others(path: Path) -> None:
    """So a source model that was trained by itself can take the place of the burn-in, by MODEL.WEIGHTS."""
    source = load(path)
    for mode in ("uda", "wda"):
        adapted = path.with_name(path.name.replace("_source", f"_{mode}"))
        cfg = load(adapted)
        assert cfg.DOMAIN_ADAPT.BURN_IN_ITERS == source.SOLVER.MAX_ITER
        assert cfg.SOLVER.MAX_ITER > cfg.DOMAIN_ADAPT.BURN_IN_ITERS
        assert cfg.DATASETS.TRAIN == source.DATASETS.TRAIN
        assert cfg.MODEL == source.MODEL
        assert cfg.INPUT == source.INPUT
        after = load(adapted, "MODEL.WEIGHTS", "source/model_final.pth")
        assert burn_in_iters(after) == adaptation_start(after) == 0
        assert num_iterations(after) == cfg.SOLVER.MAX_ITER - cfg.DOMAIN_ADAPT.BURN_IN_ITERS


def test_no_two_leaves_write_into_the_same_folder() -> None:
    folders = [load(path).OUTPUT_DIR for path in LEAVES]
    assert len(set(folders)) == len(folders)


# ---- settings that cannot be


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["TEST.INSTANCES", "center"], "TEST.INSTANCES is 'center'; use components or centers"),
        (["MODEL.PRECISION", "float16"], "MODEL.PRECISION is 'float16'; use float32 or bfloat16"),
        (["SOLVER.AMP.ENABLED", "True"], "use MODEL.PRECISION bfloat16 instead"),
        (["INPUT.CROP_SIZE", "100"], "INPUT.CROP_SIZE is 100; make it a multiple of MODEL.VIT.PATCH_SIZE 8"),
        (["DATALOADER.MAX_CORRUPT_SLICES", "-1"], "MAX_CORRUPT_SLICES is -1; use 0 to"),
        (["DOMAIN_ADAPT.ENABLED", "True"], "needs DATASETS.TARGET"),
        (
            ["DOMAIN_ADAPT.ENABLED", "True", "DATASETS.TARGET", "('x',)", "DOMAIN_ADAPT.BURN_IN_ITERS", "16001"],
            "BURN_IN_ITERS is 16001; it is part of SOLVER.MAX_ITER 16000",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_named(opts: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        get_prompt_das_cfg(None, opts)


def test_a_key_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"SOLVER\.BASE_LEARNING_RATE"):
        get_prompt_das_cfg(None, ["SOLVER.BASE_LEARNING_RATE", "1"])
    (tmp_path / "mine.yaml").write_text("VERSION: 2\nSOLVER: {BASE_LEARNING_RATE: 1}\n")
    with pytest.raises(ValueError, match=r"SOLVER\.BASE_LEARNING_RATE"):
        get_prompt_das_cfg(str(tmp_path / "mine.yaml"))


def test_a_config_file_cannot_run_code(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    (tmp_path / "mine.yaml").write_text(f"OUTPUT_DIR: !!python/object/apply:os.mkdir [{victim}]\n")
    with pytest.raises(Exception, match="could not determine a constructor"):
        get_prompt_das_cfg(str(tmp_path / "mine.yaml"))
    assert not victim.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("INPUT: {CROP_SIZE: }", "INPUT.CROP_SIZE has no value; was the config cut off"),
        ("INPUT:", "key: INPUT"),
        ("SOLVER: {BASE_LR: .nan}", "SOLVER.BASE_LR is nan; use a finite number"),
        ("MODEL: {VIT: {PATCH_SIZE: 0}}", "MODEL.VIT.PATCH_SIZE is 0; use 1 to 128"),
        ("MODEL: {VIT: {NUM_HEADS: 7}}", "make it a multiple of MODEL.VIT.NUM_HEADS 7"),
        ("MODEL: {PIXEL_STD: [0.0, 1.0, 1.0]}", "MODEL.PIXEL_STD is .* three positive numbers"),
        ("DATASETS: {TRAIN: [3]}", "DATASETS.TRAIN is .* list of names"),
        ("VERSION: 1", "VERSION is 1; this release reads 2"),
        ("3: 4", "a config holds lines"),
    ],
)
def test_values_of_no_use_name_the_file_and_the_key(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match=rf"mine\.yaml: .*{message}"):
        get_prompt_das_cfg(tmp_path / "mine.yaml")


def test_a_config_never_fetches_its_base(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("_BASE_: https://127.0.0.1:9/base.yaml\n")
    with pytest.raises(ValueError, match=r"mine\.yaml: _BASE_ .* is not the path of a file on this machine"):
        get_prompt_das_cfg(tmp_path / "mine.yaml")
