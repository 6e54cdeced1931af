"""Points in all formats that are read."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from entry_point import IMAGES, NAMES, RUBBISH, SHAPE, EntryPoint, Hostile
from prompt_das.volumes.point_files import read_points, write_points

import cv2
import numpy as np

POINTS = {z: np.random.default_rng(z).uniform(0, 40, (6, 2)).astype(np.float32).round(2) for z in range(3)}


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
        "rubbish": RUBBISH,
        "an image": cv2.imencode(".png", IMAGES[0])[1].tobytes(),
        "pickle": pickle.dumps(Hostile(canary)),
        "npy with a pickle": b"\x93NUMPY\x01\0v\0{'descr': '|O', 'fortran_order': False, 'shape': (1,)}".ljust(128)
        + b"\n"
        + pickle.dumps(Hostile(canary)),
    }


ENTRY_POINTS = {
    "points: JSON": EntryPoint(own_json, load_points, frozenset({"cut"}), are_points, hostile_points),
    "points: list": EntryPoint(in_text("p.json", json.dumps(ROWS)), load_points, frozenset({"cut"}), are_points),
    "points: WDA-Net": EntryPoint(in_text("p.json", json.dumps(WDANET)), load_points, frozenset({"cut"}), are_points),
    "points: CSV": EntryPoint(
        in_text("p.csv", "z,y,x\n" + "".join(f"{z},{y},{x}\n" for z, y, x in ROWS)),
        *(load_points, frozenset(), are_points),
    ),
}
