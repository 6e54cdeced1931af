"""What the user is notified of, by kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Notifications:
    """Functions that show a text: what went wrong, what the user has to do first, what was done."""

    error: Callable[[str], object]
    warning: Callable[[str], object]
    info: Callable[[str], object]

    def exception(self, error: BaseException) -> None:
        """Show the text of an exception; its type if it has none."""
        self.error(str(error) or type(error).__name__)
