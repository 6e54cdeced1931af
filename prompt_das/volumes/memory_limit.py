"""What a damaged header may not claim."""

from __future__ import annotations

import os

_MEMORY = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def require_memory(nbytes: int) -> None:
    """Raises ValueError for what this machine cannot hold: trying it could end the process."""
    if nbytes > _MEMORY:
        raise ValueError(f"it claims {nbytes / 2**30:,.0f} GiB, and this machine has {_MEMORY / 2**30:,.0f} GiB")
