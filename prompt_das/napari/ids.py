"""Ids of instances that stay, so that their colors stay from one response to the next."""

from __future__ import annotations

import numpy as np


def keep_ids(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """``after`` with other ids: an instance that overlaps one of ``before`` most, and it most of all, takes its id.

    The others get ids that are not in ``before``.

    Args:
        before: (H, W) ids, 0 is background.
        after: the same, with ids of about 1 ... n: memory grows with the largest one.
    """
    both = (before > 0) & (after > 0)
    count = int(after.max(initial=0)) + 1
    pairs, overlap = np.unique(before[both].astype(np.int64) * count + after[both], return_counts=True)
    old, new = np.divmod(pairs[np.argsort(-overlap, kind="stable")], count)
    mutual = _is_first(old) & _is_first(new)
    renamed = np.zeros(count, np.int64)
    renamed[new[mutual]] = old[mutual]
    fresh = renamed == 0
    fresh[0] = False
    renamed[fresh] = int(before.max(initial=0)) + np.arange(1, 1 + fresh.sum())
    return renamed.astype(after.dtype)[after]


def _is_first(values: np.ndarray) -> np.ndarray:
    """(N,) bool: the value was not there before."""
    first = np.zeros(len(values), bool)
    first[np.unique(values, return_index=True)[1]] = True
    return first
