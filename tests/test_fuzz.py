"""Damaged and hostile files through the doors that a user takes: an error that names the file, or the right result.

Each door runs in a process of its own with a limit of memory and time, and is watched: whoever starts a program or
opens a connection there has run what a file said. Allowed are ValueError and OSError with the file's folder in their
message, at tools an exit with such a message, and the result of the undamaged file. What a format cannot notice, such
as another digit in a text, may give another result, if it is one that the format allows; ``Door.certain`` names the
kinds of damage for which there is no such excuse.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import multiprocessing
import os
import pickle
import random
import resource
import shutil
import sys
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prompt_das.checkpoint import PromptDASCheckpointer, export_weights, read_checkpoint
from prompt_das.data import datasets
from prompt_das.data.datasets import read_image, read_labels, register_volumes_from_yaml
from prompt_das.data.point_labels import read_points, write_points
from prompt_das.data.volumes import VolumeError
from prompt_das.engine.defaults import get_prompt_das_cfg, load_model
from prompt_das.modeling.backbone import ViTBackbone
from prompt_das.modeling.meta_arch import PromptDAS
from prompt_das.modeling.vit_weights import load_vit_weights

import cv2
import detectron2.engine.defaults
import h5py
import numpy as np
import pytest
import tifffile
import torch
import zarr
from detectron2.data import DatasetCatalog, MetadataCatalog
from safetensors.torch import save_file
from torch import nn

SEED = 0
SECONDS = 60  # for one file: most take a tenth of one, but a machine may be busy
MEMORY = 4 << 30  # more than the process has when it begins
EXECUTED = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect", "socket.getaddrinfo")
ROOT = Path(__file__).parents[1]
ALWAYS = frozenset({"cut", "flip", "flip_in_header", "overwrite", "insert"})

SHAPE = (3, 40, 48)
IMAGES = np.random.default_rng(SEED).integers(0, 255, SHAPE).astype(np.uint8)
LABELS = np.kron(np.random.default_rng(SEED).integers(0, 2, (3, 5, 6)), np.ones((1, 8, 8))).astype(np.uint16)
LABELS *= np.arange(1, 1 + LABELS.size, dtype=np.uint16).reshape(SHAPE) // 300 + 1
POINTS = {z: np.random.default_rng(z).uniform(0, 40, (6, 2)).astype(np.float32).round(2) for z in range(3)}
NAMES = [f"im{z}.png" for z in range(3)]


@dataclass(frozen=True)
class Door:
    """A way in.

    Attributes:
        write: makes a folder with all that is needed; returns the files that are damaged.
        enter: what a user does with the folder -> the result, nested lists, dicts, arrays, tensors.
        certain: damage that never gives another result.
        allowed: (result, true result): whether the format's rules permit this other result.
        hostile: name -> content of the first file, always to be refused.
    """

    write: Callable[[Path, list[str]], list[Path]]
    enter: Callable[[Path], Any]
    certain: frozenset[str] = ALWAYS
    allowed: Callable[[Any, Any], bool] = lambda result, true: False
    hostile: Callable[[Path], dict[str, bytes]] = lambda canary: {}


def tool(name: str, *arguments: str) -> str:
    """Run a tool -> what it says; an exit that is not 0 is a ValueError with it. No traceback may come out."""
    sys.path.insert(0, str(ROOT / "tools"))
    module = __import__(name)
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            module.main(list(arguments))
        except SystemExit as exit_:
            if exit_.code not in (None, 0):
                raise ValueError(f"{exit_.code} {said.getvalue()}") from None
    return said.getvalue()


# ---- images and labels


def png(path: Path, array: np.ndarray) -> str:
    path.mkdir()
    for name, plane in zip(NAMES, array, strict=True):
        cv2.imwrite(str(path / name), plane)
    return path.name


def tiff(path: Path, array: np.ndarray) -> str:
    tifffile.imwrite(path.with_suffix(".tif"), array, compression="zlib", photometric="minisblack")
    return f"{path.name}.tif"


def hdf5(path: Path, array: np.ndarray) -> str:
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        file.create_dataset("ids", data=array, chunks=(1, 20, 24), compression="gzip")
    return f"{path.name}.h5"


def zarr_(path: Path, array: np.ndarray) -> str:
    stored = zarr.open(str(path.with_suffix(".zarr")), mode="w", shape=SHAPE, chunks=(1, 20, 24), dtype=array.dtype)
    stored[:] = array
    return f"{path.name}.zarr"


def volume(kind: str, store: Callable[[Path, np.ndarray], str]) -> Callable[[Path, list[str]], list[Path]]:
    def write(folder: Path, tiny: list[str]) -> list[Path]:
        images, labels = store(folder / "images", IMAGES), store(folder / "labels", LABELS)
        (folder / "lab.yaml").write_text(f"name: lab\nimages: {images}\nlabels: {labels}\n")
        target = folder / (images if kind == "images" else labels)
        return sorted(p for p in target.rglob("*") if p.is_file()) if target.is_dir() else [target]

    return write


def read_volume(folder: Path) -> list[Any]:
    """Slices and their labels, None for those that are refused; the check before a run says the same."""
    found: list[Any] = []
    try:
        register_volumes_from_yaml(folder / "lab.yaml")
        for entry in DatasetCatalog.get("lab"):
            for read in (read_image, read_labels):
                try:
                    found.append(read(entry))
                except VolumeError as error:
                    if str(folder) not in str(error):
                        raise
                    found.append(None)
        tool("check_data", "--volume", str(folder / "lab.yaml"), "--workers", "1")
    except ValueError:
        if not found or not any(part is None for part in found):
            raise
    if all(part is None for part in found[0::2]) or all(part is None for part in found[1::2]):
        raise ValueError(f"{folder}: nothing can be read")
    return found


def is_volume(found: Any, true: Any) -> bool:
    """Slices and labels of the right size, or nothing; of a container with another shape, of that shape."""
    arrays = [part for part in found if part is not None]
    grey = [part for part in found[0::2] if part is not None]
    return all(array.ndim == 2 for array in arrays) and all(g.min() >= 0 and g.max() <= 255 for g in grey)


# ---- points


def in_text(name: str, text: str) -> Callable[[Path, list[str]], list[Path]]:
    def write(folder: Path, tiny: list[str]) -> list[Path]:
        (folder / name).write_text(text)
        return [folder / name]

    return write


def own_json(folder: Path, tiny: list[str]) -> list[Path]:
    write_points(folder / "points.json", POINTS, dataset="lab", ratio=0.15, seed=0)
    return [folder / "points.json"]


ROWS = [(z, float(y), float(x)) for z, points in POINTS.items() for x, y in points.round(2)]
WDANET = [
    [{"width": 48}, {"height": 40}],
    [{name: [[y, x] for z, y, x in ROWS if z == i]} for i, name in enumerate(NAMES)],
]


def load_points(folder: Path) -> Any:
    (path,) = folder.iterdir()
    return read_points(path, NAMES, num_slices=SHAPE[0], size=SHAPE[1:])


def are_points(found: Any, true: Any) -> bool:
    return all(
        z in range(3) and p.dtype == np.float32 and p.shape[1:] == (2,) and ((p >= 0) & (p < (48, 40))).all()
        for z, p in found.items()
    )


def hostile_points(canary: Path) -> dict[str, bytes]:
    head = '{"format": "prompt_das/points", "version": 1, "slices": '
    texts = {
        "nothing": "",
        "no number": head + '{"0": [[NaN, 1]]}}',
        "infinite": head + '{"0": [[1, Infinity]]}}',
        "too large for a float": head + '{"0": [[1e39, 1]]}}',
        "negative": head + '{"0": [[-3, 1]]}}',
        "a million digits": head + '{"0": [[' + "9" * 10**6 + ", 1]]}}",
        "a slice of a million digits": head + '{"' + "9" * 10**6 + '": [[1, 1]]}}',
        "a truth": head + '{"0": [[true, 1]]}}',
        "words": head + '{"0": [["1", "2"]]}}',
        "null": head + '{"0": [[null, 2]]}}',
        "triples": head + '{"0": [[1, 2, 3]]}}',
        "a dict for points": head + '{"0": {"x": 1}}}',
        "a slice twice": head + '{"0": [[1, 1]], "0": [[2, 2]]}}',
        "a slice twice, written otherwise": head + '{"0": [[1, 1]], "00": [[2, 2]]}}',
        "deep": "[" * 10**6,
        "deep and closed": "[" * 10**5 + "]" * 10**5,
        "a row of words": '[["0", "1", "2"]]',
        "a row of lists": "[[0, [1], 2]]",
        "a huge row": "[[1e300, 1, 2]]",
        "columns of others": "a,b,c\n1,2,3\n",
        "columns twice": "z,y,x,x\n0,1,2,3\n",
        "decimal commas": "z,y,x\n0,1,5,2,5\n",
        "too few": "z,y,x\n0,1\n",
        "csv without numbers": "z,y,x\n0,nan,inf\n",
        "csv with a huge slice": "z,y,x\n1e300,1,2\n",
        "csv with a long field": "z,y,x\n0," + "1" * 200_000 + ",2\n",
        "csv with zeros": "z,y,x\n0,1\0,2\n",
    }
    return {
        **{name: text.encode() for name, text in texts.items()},
        "UTF-16": "z,y,x\n0,1,2\n".encode("utf-16"),
        "rubbish": random.Random(SEED).randbytes(5000),
        "an image": cv2.imencode(".png", IMAGES[0])[1].tobytes(),
        "pickle": pickle.dumps(Hostile(canary)),
        "npy with a pickle": b"\x93NUMPY\x01\0v\0{'descr': '|O', 'fortran_order': False, 'shape': (1,)}".ljust(128)
        + b"\n"
        + pickle.dumps(Hostile(canary)),
    }


# ---- configs


class Hostile:
    """Unpickling it runs a program that leaves a file."""

    def __init__(self, canary: Path, call: Callable = os.system) -> None:
        self.call = call
        self.code = f"touch {canary}" if call is os.system else f"open({str(canary)!r}, 'w')"

    def __reduce__(self) -> tuple[Callable, tuple]:
        return self.call, (self.code,)


def config_and_base(folder: Path, tiny: list[str]) -> list[Path]:
    shutil.copy(ROOT / "configs" / "Base-PromptDAS.yaml", folder)
    (folder / "leaf.yaml").write_text(
        (ROOT / "configs" / "quick" / "Quick-PromptDAS.yaml").read_text().replace("../Base", "Base")
    )
    return [folder / "leaf.yaml", folder / "Base-PromptDAS.yaml"]


def load_config(folder: Path) -> Any:
    return yaml_of(get_prompt_das_cfg(folder / "leaf.yaml"))


def yaml_of(cfg: Any) -> dict[str, str]:
    return {line: "" for line in cfg.dump().splitlines() if not line.startswith("VIS_PERIOD")}


def train(folder: Path) -> Any:
    """As `tools/train_net.py --config-file`, as far as it gets without weights."""
    sys.path.insert(0, str(ROOT / "tools"))
    module = __import__("train_net")
    detectron2.engine.defaults.collect_env_info = str  # it runs a compiler, for the log
    output = folder.parent / f"{folder.name}_output"
    words = ["--config-file", str(folder / "leaf.yaml"), "--eval-only", "OUTPUT_DIR", str(output)]
    args = module.default_argument_parser().parse_args([*words, "MODEL.WEIGHTS", str(folder / "none.pth")])
    try:
        module.main(args)
    except SystemExit as exit_:
        if "none.pth" in str(exit_.code):  # so far all was right
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
        "rubbish": random.Random(SEED).randbytes(5000),
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
    tool("check_data", "--volume", str(folder / "lab.yaml"), "--workers", "1")
    return {name: [len(DatasetCatalog.get(name)), *map(str, vars(datasets._specs[name]).values())] for name in names}


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
        "by http": "name: lab\nimages: http://127.0.0.1:9/scan.tif\n",
        "a name that leads elsewhere": "name: ../../lab\nimages: images\n",
        "a name with brackets": "name: lab[0:2]\nimages: images\n",
        "a list for an array": head + "images_dataset: [a]\n",
        "a voxel without size": head + "voxel_size: [.nan, 8, 8]\n",
        "a voxel of size 0": head + "voxel_size: [0, 8, 8]\n",
        "infinite slices": head + "splits: {train: [0, .inf]}\n",
        "slices that are not there": head + "splits: {train: [0, 99]}\n",
        "slices backwards": head + "splits: {train: [2, 0]}\n",
        "grey values backwards": head + "intensity_range: [5, 5]\n",
        "an unknown key": head + "lables: labels\n",
        "an unknown label type": head + "label_type: [instance]\n",
        "points that are an image": head + "points: images/im0.png\n",
    }
    return {**shared, **{name: text.encode() for name, text in texts.items()}}


# ---- weights


def trained(folder: Path, tiny: list[str]) -> list[Path]:
    """The folder of a run with its last two checkpoints and its config."""
    cfg = get_prompt_das_cfg(None, tiny)
    student = PromptDAS(cfg)
    run = PromptDASCheckpointer(student, str(folder), teacher=PromptDAS(cfg))
    for number in (1, 2):
        nn.init.constant_(student.decoder.mask_token, number)
        run.save(f"model_000000{number}", iteration=number)
    (folder / "config.yaml").write_text(cfg.dump())
    return [folder / "model_0000002.pth"]


def trained_config(folder: Path, tiny: list[str]) -> list[Path]:
    trained(folder, tiny)
    return [folder / "config.yaml"]


def load_trained(folder: Path) -> Any:
    cfg, model = load_model(folder / "model_0000002.pth")
    return [yaml_of(cfg), model.state_dict()]


def same_weights(found: Any, true: Any) -> bool:
    """Another config, which text cannot notice; but the weights are those of the file."""
    return same(found[1], true[1])


def exported(folder: Path, tiny: list[str]) -> list[Path]:
    cfg = get_prompt_das_cfg(None, tiny)
    export_weights(folder / "shared.safetensors", PromptDAS(cfg).state_dict(), cfg.dump())
    return [folder / "shared.safetensors"]


def load_exported(folder: Path) -> Any:
    cfg, model = load_model(folder / "shared.safetensors")
    return [yaml_of(cfg), model.state_dict()]


def foreign(folder: Path, tiny: list[str]) -> list[Path]:
    save_file(encoder().state_dict(), folder / "vit.safetensors")
    return [folder / "vit.safetensors"]


def dino(folder: Path, tiny: list[str]) -> list[Path]:
    torch.save({"teacher": {f"backbone.{k}": v for k, v in encoder().state_dict().items()}}, folder / "vit.pth")
    return [folder / "vit.pth"]


def encoder() -> nn.Module:
    return ViTBackbone(image_size=32, patch_size=8, embed_dim=32, depth=1, num_heads=2, mlp_ratio=4).vit


def load_encoder(folder: Path) -> Any:
    (path,) = folder.iterdir()
    vit = encoder()
    load_vit_weights(vit, str(path))
    return vit.state_dict()


def is_encoder(found: Any, true: Any) -> bool:
    """Other values of an uncompressed file without a checksum, by name and shape those of the network, and finite."""
    return found.keys() == true.keys() and all(
        v.shape == true[k].shape and bool(v.isfinite().all()) for k, v in found.items()
    )


def resume(folder: Path) -> Any:
    """Damage falls back to the checkpoint before: that one is right, too."""
    cfg = get_prompt_das_cfg(folder / "config.yaml")
    student, teacher = PromptDAS(cfg), PromptDAS(cfg)
    rest = PromptDASCheckpointer(student, str(folder), teacher=teacher).resume_or_load("", resume=True)
    assert rest["iteration"] in (1, 2)
    expected = read_checkpoint(folder / f"model_000000{rest['iteration']}.pth")
    assert same(student.state_dict(), expected["model"])
    assert student.decoder.mask_token.unique().tolist() == [rest["iteration"]]
    return teacher.state_dict()


def share(folder: Path) -> Any:
    out = folder / "out.safetensors"
    tool("convert_checkpoint", "--from", "training", str(folder / "model_0000002.pth"), str(out))
    return read_checkpoint(out)


def saved(content: object, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def hostile_weights(canary: Path) -> dict[str, bytes]:
    packed = io.BytesIO()
    whole = zipfile.ZipFile(io.BytesIO(saved({"model": {"w": torch.zeros(1 << 20)}})))
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as bomb:
        for record in whole.infolist():
            bomb.writestr(record.filename, whole.read(record))
    weights = encoder().state_dict()
    values = weights["norm.weight"]
    odd: dict[str, Any] = {
        "not finite": torch.full_like(values, float("nan")),
        "infinite": torch.full_like(values, float("inf")),
        "integers": values.long(),
        "complex": values.cfloat(),
        "another shape": torch.zeros(7),
        "claims to be huge": torch.zeros(1).expand(10**13),
        "sparse": values.to_sparse(),
        "meta": values.to("meta"),
        "quantized": torch.quantize_per_tensor(values, 0.1, 0, torch.qint8),
        "a word": "hello",
        "a list": [1, 2, 3],
        "nothing": None,
    }
    files = {name: saved(weights | {"norm.weight": value}) for name, value in odd.items()}
    files |= {f"{name}, in a teacher": saved({"model": weights, "teacher": weights | {"norm.weight": value}})
              for name, value in odd.items()}  # fmt: skip
    return {
        **files,
        "os.system": saved({"model": Hostile(canary)}),
        "eval": saved({"teacher": Hostile(canary, eval)}),
        "old format": saved({"model": Hostile(canary)}, _use_new_zipfile_serialization=False),
        "Detectron2's pickle": pickle.dumps({"model": Hostile(canary), "__author__": "x"}),
        "protocol 0": pickle.dumps(Hostile(canary), 0),
        "packed": packed.getvalue(),
        "positions of another kind": saved(weights | {"pos_embed": torch.zeros(3)}),
        "positions that are huge": saved(weights | {"pos_embed": torch.zeros(1, 1, 1).expand(1, 10**12, 32)}),
        "no names": saved({1: values, "a": values}),
        "a tensor": saved(values),
        "a list of tensors": saved([values]),
        "a model that is a list": saved({"model": [values], "teacher": [values]}),
        "a model that is a tensor": saved({"model": values, "teacher": values}),
        "empty": saved({}),
        "empty model": saved({"model": {}, "teacher": {}}),
        "a name too many": saved(weights | {"backdoor.weight": values}),
        "no file": b"",
        "text": b"hello",
        "an archive of nothing": b"PK\x05\x06" + bytes(18),
        "rubbish": random.Random(SEED).randbytes(5000),
    }


def hostile_safetensors(canary: Path) -> dict[str, bytes]:
    def file(header: object, data: bytes = b"") -> bytes:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + data

    config = {"prompt_das.config": f"OUTPUT_DIR: !!python/object/apply:os.system ['touch {canary}']\n"}
    base = {"prompt_das.config": "_BASE_: http://127.0.0.1:9/x.yaml\n"}
    one = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    large = get_prompt_das_cfg(
        None, ["MODEL.VIT.EMBED_DIM", "8192", "MODEL.VIT.DEPTH", "256", "MODEL.VIT.NUM_HEADS", "8"]
    )
    return {
        "a config with code": file({"__metadata__": config, "w": one}, bytes(4)),
        "a config with a base": file({"__metadata__": base, "w": one}, bytes(4)),
        "a config of a huge network": file({"__metadata__": {"prompt_das.config": large.dump()}, "w": one}, bytes(4)),
        "no config": file({"w": one}, bytes(4)),
        "a huge header": (1 << 60).to_bytes(8, "little"),
        "a huge tensor": file({"w": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}),
        "a shape that overflows": file({"w": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 0]}}),
        "deep": file(b"[" * 100_000),
        "a list": file([1, 2]),
        "pickle": pickle.dumps(Hostile(canary)),
        "nothing": b"",
    }


def hostile_checkpoints(canary: Path) -> dict[str, bytes]:
    """For a network of which nothing in them is."""
    return hostile_weights(canary)


VOLUMES = {"PNG": (png, ALWAYS), "TIFF": (tiff, {"cut"}), "HDF5": (hdf5, {"cut"}), "Zarr": (zarr_, {"cut"})}
DOORS: dict[str, Door] = {
    f"{kind}: {name}": Door(volume(kind, store), read_volume, frozenset(certain), is_volume)
    for kind in ("images", "labels")
    for name, (store, certain) in VOLUMES.items()
}
DOORS |= {
    "points: JSON": Door(own_json, load_points, frozenset({"cut"}), are_points, hostile_points),
    "points: list": Door(in_text("p.json", json.dumps(ROWS)), load_points, frozenset({"cut"}), are_points),
    "points: WDA-Net": Door(in_text("p.json", json.dumps(WDANET)), load_points, frozenset({"cut"}), are_points),
    "points: CSV": Door(
        in_text("p.csv", "z,y,x\n" + "".join(f"{z},{y},{x}\n" for z, y, x in ROWS)),
        *(load_points, frozenset(), are_points),
    ),
    "configs: file": Door(config_and_base, load_config, frozenset(), lambda *_: True, hostile_yaml),
    "configs: train_net": Door(config_and_base, train, frozenset(), lambda *_: True, hostile_yaml),
    "configs: of a run": Door(trained_config, load_trained, frozenset({"cut"}), same_weights, hostile_yaml),
    "configs: of a volume": Door(description, read_description, frozenset(), lambda *_: True, hostile_description),
    "weights: checkpoint": Door(trained, load_trained, hostile=hostile_checkpoints),
    "weights: resume": Door(trained, resume),
    "weights: export": Door(trained, share, hostile=hostile_checkpoints),
    "weights: shared": Door(exported, load_exported, hostile=hostile_safetensors),
    "weights: DINO": Door(dino, load_encoder, hostile=hostile_weights),
    "weights: foreign safetensors": Door(foreign, load_encoder, frozenset({"cut"}), is_encoder, hostile_safetensors),
}


# ---- the watched process


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and np.array_equal(a, b)
    return bool(a == b)


def judge(door: Door, folder: Path, true: Any, damage: str) -> str:
    """What became of a folder: "refused", "right", "allowed", or the defect."""
    try:
        found = door.enter(folder)
    except (ValueError, OSError) as error:
        return "refused" if str(folder) in str(error) else f"{type(error).__name__} names no file: {error}"
    except BaseException:  # noqa: BLE001  (that is what is looked for)
        return f"uncaught: {traceback.format_exc()}"
    if damage == "hostile":
        return "accepted"
    if isinstance(found, list) and any(part is None for part in found) and len(found) == len(true):
        true = [None if part is None else whole for part, whole in zip(found, true, strict=True)]
    if same(found, true):
        return "right"
    return "allowed" if damage not in door.certain and door.allowed(found, true) else f"wrong: {found!r:.500}"


def watched(name: str, pipe: Any) -> None:
    """Answer folders with what became of them."""
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    known = set(DatasetCatalog.list())
    executed: list[str] = []
    sys.addaudithook(lambda event, args: executed.append(f"{event} {args}") if event in EXECUTED else None)
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + MEMORY, -1))
    true: Any = None
    while (case := pipe.recv()) is not None:
        folder, damage = case
        with contextlib.redirect_stderr(io.StringIO()):
            if damage == "none":
                true = DOORS[name].enter(folder)
                pipe.send("right")
            else:
                executed.clear()
                verdict = judge(DOORS[name], folder, true, damage)
                pipe.send(f"executed {executed}" if executed else verdict)
        for new in set(DatasetCatalog.list()) - known:
            DatasetCatalog.remove(new)
            MetadataCatalog.pop(new, None)
            datasets._specs.pop(new, None)


class Watch:
    """The parent's side: a process, begun anew when it had to be ended."""

    def __init__(self, name: str, whole: Path, start_process: Callable[..., Any]) -> None:
        self.name, self.whole, self.start_process = name, whole, start_process
        self.start()

    def start(self) -> None:
        self.pipe, theirs = multiprocessing.Pipe()
        self.process = self.start_process(watched, self.name, theirs, daemon=True)
        theirs.close()
        assert self.ask(self.whole, "none", 120) == "right"

    def ask(self, folder: Path, damage: str, seconds: float = SECONDS) -> str:
        try:
            self.pipe.send((folder, damage))
            if self.pipe.poll(seconds):
                return self.pipe.recv()
            verdict = f"still at it after {seconds} s"
        except (EOFError, BrokenPipeError):
            verdict = "the process died"
        self.process.kill()
        if damage != "none":
            self.start()
        return verdict

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.pipe.send(None)
        self.process.join(10)
        self.process.kill()


# One file of each damage and door in every run of the tests; the slow ones are those of `make test-faults`.
@pytest.mark.parametrize("count", [5, pytest.param(50, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", DOORS)
def test_damaged_and_hostile_files(
    name: str,
    count: int,
    tmp_path: Path,
    tiny: list[str],
    damages: dict[str, Callable],
    start_process: Callable[..., Any],
) -> None:
    door, rng, canary = DOORS[name], random.Random(f"{SEED} {name}"), tmp_path / "canary"
    whole = tmp_path / "whole"
    whole.mkdir()
    torch.manual_seed(SEED)
    targets = [path.relative_to(whole) for path in door.write(whole, tiny)]
    watch = Watch(name, whole, start_process)
    verdicts: list[tuple[str, str]] = []

    def look(label: str, target: Path, content: bytes, damage: str) -> None:
        case = tmp_path / f"case{len(verdicts)}"
        shutil.copytree(whole, case)
        (case / target).write_bytes(content)
        verdicts.append((f"{label} {target}", watch.ask(case, damage)))
        shutil.rmtree(case)

    for number in range(count):
        damage = list(damages)[number % len(damages)]
        target = rng.choice(targets)
        content = bytearray((whole / target).read_bytes())
        damages[damage](content, rng)
        look(f"{number}, {damage}", target, bytes(content), damage)
    for label, content in door.hostile(canary).items():
        look(label, targets[0], content, "hostile")
    watch.close()

    defects = [(label, verdict) for label, verdict in verdicts if verdict not in ("refused", "right", "allowed")]
    logging.getLogger(__name__).info("%s: %s", name, dict(Counter(verdict for _, verdict in verdicts)))
    assert not defects, "\n".join(f"{label}: {verdict}" for label, verdict in defects)
    assert not canary.exists()


@pytest.mark.parametrize("label", hostile_weights(Path("canary")))
def test_hostile_weights_are_none_of_the_authors(label: str, tmp_path: Path) -> None:
    path, canary = tmp_path / "R-H.pth", tmp_path / "canary"
    path.write_bytes(hostile_weights(canary)[label])
    with pytest.raises(ValueError, match=r"R-H\.pth|not the authors' network"):
        tool("convert_checkpoint", "--from", "reference", str(path), str(tmp_path / "out.safetensors"))
    assert not canary.exists()
