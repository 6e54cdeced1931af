"""Rows of numbers from a file of points, checked and turned into clicks; errors name the file and the row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prompt_das.ops.points import as_clicks

import numpy as np

_MAX_FLOAT32 = float(np.finfo(np.float32).max)


def is_number(value: object) -> bool:
    """Whether a value is a finite number, also as float32. JSON's true and the text "1" are none, unlike in NumPy."""
    is_real = isinstance(value, int | float | np.floating) and not isinstance(value, bool)
    return is_real and abs(float(value)) < _MAX_FLOAT32  # type: ignore[arg-type]


def require_numbers(path: Path, z: object, rows: Any, expected: str) -> None:
    """Raise ValueError unless each row consists of finite numbers.

    Args:
        z: index or file name of the slice that the rows are of, for the message; None if they are of several.
        expected: what a row should be.
    """
    wrong = next((row for row in rows if not all(map(is_number, row))), None)
    if wrong is not None:
        where = f"{path}" if z is None else f"{path}, slice {z}"
        raise ValueError(f"{where}: {wrong!r:.100} is not {expected}")


def clicks_of_rows(path: Path, z: object, rows: Any) -> np.ndarray:
    """Rows (x, y, label) of slice ``z`` -> (N, 3) float32.

    Raises:
        ValueError: a value that is no finite number, or a label that is neither 0 nor 1.
    """
    require_numbers(path, z, rows, "x, y and perhaps a label, all finite numbers")
    try:
        return as_clicks(np.array(rows, dtype=np.float32).reshape(-1, 3))
    except ValueError as error:
        raise ValueError(f"{path}, slice {z}: {error}") from error
