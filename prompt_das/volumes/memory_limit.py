"""Limits on the sizes in a header, which may be damaged or hostile, checked before memory is allocated."""

from __future__ import annotations

import os

_MEMORY = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
_MAX_SLICES = 1 << 18  # the largest EM volumes have some 30 000


def require_memory(nbytes: int) -> None:
    """Raises ValueError for what this machine cannot hold: trying it could end the process."""
    if nbytes > _MEMORY:
        raise ValueError(f"it claims {nbytes / 2**30:,.0f} GiB, and this machine has {_MEMORY / 2**30:,.0f} GiB")


def require_slices(count: int) -> None:
    """Raises ValueError for more slices than any volume has: to list them alone could fill the memory."""
    if count > _MAX_SLICES:
        raise ValueError(f"it claims {count:,} slices, and at most {_MAX_SLICES:,} are read; are its axes z, y, x?")
