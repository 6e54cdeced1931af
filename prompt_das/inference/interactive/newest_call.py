"""The newest call wins: an older one ends at its next check."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator


class Superseded(Exception):
    """A newer call, or a cancellation, has made this one pointless. Its caller has nothing to do."""


class NewestCall:
    """Numbers the calls of one kind and ends all but the newest. Threads may share it.

    Args:
        numbers: where the numbers, called tickets, come from. Kinds that share them have different tickets.
    """

    def __init__(self, numbers: Iterator[int] | None = None) -> None:
        self._numbers = itertools.count(1) if numbers is None else numbers
        self._lock = threading.Lock()
        self._newest = 0

    def start(self) -> int:
        """Begin a call and return its ticket; all calls before it are superseded. Also a way to cancel them."""
        with self._lock:
            self._newest = next(self._numbers)
            return self._newest

    def is_newest(self, ticket: int) -> bool:
        """Whether no call has begun since the one with this ticket."""
        return ticket == self._newest

    def check(self, ticket: int) -> None:
        """Raise :class:`Superseded` if the call with this ticket is not the newest."""
        if not self.is_newest(ticket):
            raise Superseded("a newer call came, or this one was cancelled")
