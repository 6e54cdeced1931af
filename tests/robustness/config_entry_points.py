"""Configs of a training, and descriptions of a volume."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

from entry_point import ROOT, RUBBISH, EntryPoint, Hostile, command
from point_entry_points import own_json
from prompt_das.config.load import get_prompt_das_cfg
from prompt_das.data import datasets
from prompt_das.data.datasets import register_config_volumes, register_volumes_from_yaml
from prompt_das_cli import main
from volume_entry_points import png, volume

from detectron2.data import DatasetCatalog


def config_and_base(folder: Path, tiny: list[str]) -> list[Path]:
    shutil.copy(ROOT / "configs" / "Base-PromptDAS.yaml", folder)
    (folder / "leaf.yaml").write_text(
        (ROOT / "configs" / "quick" / "Quick-PromptDAS.yaml").read_text().replace("../Base", "Base")
    )
    return [folder / "leaf.yaml", folder / "Base-PromptDAS.yaml"]


def load_config(folder: Path) -> Any:
    cfg = get_prompt_das_cfg(folder / "leaf.yaml")
    register_config_volumes(cfg, folder / "leaf.yaml")
    return yaml_of(cfg)


def yaml_of(cfg: Any) -> dict[str, str]:
    return {line: "" for line in cfg.dump().splitlines() if not line.startswith("VIS_PERIOD")}


def train(folder: Path) -> Any:
    """As `prompt-das train --config-file`, as far as it gets without weights."""
    output = folder.parent / f"{folder.name}_output"
    words = ["train", "--config-file", str(folder / "leaf.yaml"), "--eval-only", "OUTPUT_DIR", str(output)]
    try:
        main([*words, "MODEL.WEIGHTS", str(folder / "none.pth")])
    except SystemExit as exit_:
        if "none.pth" in str(exit_.code) or "DATASETS.TEST is empty" in str(exit_.code):  # so far all was right
            return {}
        raise ValueError(str(exit_.code)) from None
    raise AssertionError("weights that do not exist were found")


def hostile_yaml(canary: Path) -> dict[str, bytes]:
    code = f"!!python/object/apply:os.system ['touch {canary}']"
    levels = "".join(f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 10)}]\n" for i in range(1, 12))
    chain = "".join(f"y{i}: &y{i} [*y{i - 1}]\n" for i in range(1, 500))
    texts = {
        "os.system": f"OUTPUT_DIR: {code}\n",
        "python name": "OUTPUT_DIR: !!python/name:os.system\n",
        "a module": "OUTPUT_DIR: !!python/module:antigravity\n",
        "a new object": f"MODEL: !!python/object/new:os.system ['touch {canary}']\n",
        "eval": f"MODEL: !!python/object/apply:eval [\"open('{canary}', 'w')\"]\n",
        "laughs": f"x0: &x0 [a, b]\n{levels}",
        "laughs for a key that exists": f"x0: &x0 [a, b]\n{levels}DATASETS: {{TRAIN: *x11}}\n",
        "merged laughs": "x0: &x0 {a: 1}\n"
        + "".join(f"x{i}: &x{i} {{<<: [{', '.join([f'*x{i - 1}'] * 9)}]}}\n" for i in range(1, 12)),
        "a chain": f"y0: &y0 [a]\n{chain}",
        "itself": "MODEL: &a {VIT: *a}\n",
        "a list in itself": "OUTPUT_DIR: &a [*a]\n",
        "deep": "OUTPUT_DIR: " + "[" * 10_000,
        "deep and closed": "OUTPUT_DIR: " + "[" * 150 + "]" * 150,
        "deep blocks": "\n".join(" " * i + "a:" for i in range(600)),
        "a number of minutes": "SEED: 1" + ":1" * 100_000,
        "many digits": "SEED: " + "9" * 100_000,
        "hexadecimal": "SEED: 0x" + "f" * 100_000,
        "brackets in a text": f"OUTPUT_DIR: '{'(' * 50_000}'\n",
        "signs in a text": f"SEED: '{'-' * 4000}1'\n",
        "a key twice": "SEED: 1\nSEED: 2\n",
        "an unknown key": "SOLVER: {BASE_LERNING_RATE: 1}\n",
        "a list": "- a\n",
        "a word": "hello",
        "a number for a section": "MODEL: 3\n",
        "a section for a number": "SEED: {A: 3}\n",
        "a key that is a number": "3: 4\n",
        "a key that is a list": "? [a]\n: 4\n",
        "text for a number": "SEED: abc\n",
        "a number for a text": "MODEL: {DEVICE: 3}\n",
        "nothing for a number": "INPUT: {CROP_SIZE: }\n",
        "nothing for a section": "INPUT:\n",
        "not finite": "SOLVER: {BASE_LR: .nan}\n",
        "infinite": "SOLVER: {BASE_LR: .inf}\n",
        "zero patches": "MODEL: {VIT: {PATCH_SIZE: 0}}\n",
        "negative": "INPUT: {CROP_SIZE: -384}\n",
        "huge": "MODEL: {VIT: {EMBED_DIM: 1000000000}}\n",
        "a date that is none": "OUTPUT_DIR: 2020-99-99\n",
        "a date": "OUTPUT_DIR: 2020-01-01\n",
        "bytes": "OUTPUT_DIR: !!binary abc\n",
        "an int of nothing": "SEED: !!int ''\n",
        "a bool of nothing": "SEED: !!bool x\n",
        "a time of nothing": "SEED: !!timestamp x\n",
        "a set": "DATASETS: {TRAIN: !!set {a}}\n",
        "names that are numbers": "DATASETS: {TRAIN: [1, 2]}\n",
        "two documents": "SEED: 1\n---\nSEED: 2\n",
        "a base that is itself": "_BASE_: leaf.yaml\n",
        "a base that is missing": "_BASE_: nowhere.yaml\n",
        "a base that is a folder": "_BASE_: .\n",
        "a base by http": "_BASE_: http://127.0.0.1:9/base.yaml\n",
        "a base by https": "_BASE_: https://127.0.0.1:9/base.yaml\n",
        "a base of Detectron2's": "_BASE_: detectron2://base.yaml\n",
        "a base of a number": "_BASE_: 3\n",
        "a base of nothing": "_BASE_:\n",
        "a list of bases": "_BASE_: [Base-PromptDAS.yaml, leaf.yaml]\n",
        "a base on a device": "_BASE_: /dev/zero\n",
        "another version": "VERSION: 1\n",
        "a volume that is missing": "DATASETS: {VOLUMES: [nowhere.yaml]}\n",
    }
    return {
        **{name: text.encode() for name, text in texts.items()},
        "rubbish": RUBBISH,
        "zeros": bytes(1000),
        "a megabyte": b"# \n" * 400_000,
        "pickle": pickle.dumps(Hostile(canary)),
    }


def description(folder: Path, tiny: list[str]) -> list[Path]:
    volume("images", png)(folder, tiny)
    own_json(folder, tiny)
    with open(folder / "lab.yaml", "a") as file:
        file.write(
            "points: points.json\nvoxel_size: [30, 8, 8]\nlabel_type: instance\nintensity_range: [0, 250]\n"
            "splits: {train: [0, 2], val: [2, 3]}\n"
        )
    return [folder / "lab.yaml"]


def read_description(folder: Path) -> Any:
    names = register_volumes_from_yaml(folder / "lab.yaml")
    command("check-data", "--volume", str(folder / "lab.yaml"), "--workers", "1")
    specs = {name: vars(datasets.registered_spec(name)) for name in names}
    return {name: [len(DatasetCatalog.get(name)), *map(str, spec.values())] for name, spec in specs.items()}


def hostile_description(canary: Path) -> dict[str, bytes]:
    ours = ("os.system", "laughs", "merged laughs", "deep", "a key twice", "a list", "a word", "a key that is a number")
    shared = {name: content for name, content in hostile_yaml(canary).items() if name in (*ours, "rubbish", "pickle")}
    head = "name: lab\nimages: images\n"
    texts = {
        "a number for a file": "name: lab\nimages: 3\n",
        "nothing for a file": "name: lab\nimages:\n",
        "zeros in a file's name": 'name: lab\nimages: "a\\0b"\n',
        "a long name of a file": f"name: lab\nimages: {'a' * 3000}\n",
        "of nobody": "name: lab\nimages: ~nobody-at-all/x\n",
        # Not by http: an address that a description names is opened on purpose, see tests/volumes/test_remote_files.py.
        "by ftp": "name: lab\nimages: ftp://127.0.0.1:9/scan.tif\n",
        "a name that leads elsewhere": "name: ../../lab\nimages: images\n",
        "a name with brackets": "name: lab[0:2]\nimages: images\n",
        "a list for an array": head + "images_dataset: [a]\n",
        "a voxel without size": head + "voxel_size: [.nan, 8, 8]\n",
        "a voxel of size 0": head + "voxel_size: [0, 8, 8]\n",
        "infinite slices": head + "splits: {train: [0, .inf]}\n",
        "slices that are not there": head + "splits: {train: [0, 99]}\n",
        "slices backwards": head + "splits: {train: [2, 0]}\n",
        "gray values backwards": head + "intensity_range: [5, 5]\n",
        "an unknown key": head + "lables: labels\n",
        "an unknown label type": head + "label_type: [instance]\n",
        "points that are an image": head + "points: images/im0.png\n",
    }
    return {**shared, **{name: text.encode() for name, text in texts.items()}}


ENTRY_POINTS = {
    "configs: file": EntryPoint(config_and_base, load_config, frozenset(), lambda *_: True, hostile_yaml),
    "configs: training": EntryPoint(config_and_base, train, frozenset(), lambda *_: True, hostile_yaml, True),
    "configs: of a volume": EntryPoint(
        description, read_description, frozenset(), lambda *_: True, hostile_description
    ),
}
