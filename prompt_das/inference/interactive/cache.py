"""A cache of tensors that never outgrows a number of bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable

from torch import Tensor


class TensorCache:
    """A cache that evicts the least recently used tensors. Threads may share it."""

    def __init__(self, max_bytes: int) -> None:
        if max_bytes < 0:
            raise ValueError(f"a cache of {max_bytes} bytes; use 0 (keep nothing) or more")
        self.max_bytes = max_bytes
        self._tensors: OrderedDict[Hashable, Tensor] = OrderedDict()
        self._nbytes = 0
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """What the tensors take, at most ``max_bytes``."""
        return self._nbytes

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._tensors

    def get(self, key: Hashable) -> Tensor | None:
        """The tensor, which counts as used now; None if it was never put or was evicted."""
        with self._lock:
            if key not in self._tensors:
                return None
            self._tensors.move_to_end(key)
            return self._tensors[key]

    def put(self, key: Hashable, tensor: Tensor) -> None:
        """Keep a tensor, which nobody may change from now on. One that is larger than the whole cache is not kept."""
        with self._lock:
            if key in self._tensors:
                self._nbytes -= self._tensors.pop(key).nbytes
            if tensor.nbytes > self.max_bytes:
                return
            self._tensors[key] = tensor
            self._nbytes += tensor.nbytes
            while self._nbytes > self.max_bytes:
                self._nbytes -= self._tensors.popitem(last=False)[1].nbytes
