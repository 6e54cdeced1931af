"""Long work in the background, one at a time: opening weights, saving labels, a whole volume, a project."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from prompt_das.napari.messages import Failed, Finished, Message, Opened, Progress, Report
from prompt_das.napari.notifications import Notifications
from prompt_das.napari.session import Session


class Tasks:
    """The task under way, if there is one. All methods are for the viewer's thread.

    Attributes:
        name, progress: what is under way, and (done, total) of it; "" and None if there is nothing.
    """

    def __init__(self, session: Session, notifications: Notifications, on_change: Callable[[], object]) -> None:
        """
        Args:
            on_change: called when a task begins or ends.
        """
        self.name = ""
        self.progress: tuple[int, int] | None = None
        self._session, self._notifications, self._on_change = session, notifications, on_change
        self._show: Callable[[Any], object] = lambda result: None

    def is_free(self) -> bool:
        """Whether another task may begin. If not, the user is warned."""
        if self.progress is not None:
            self._notifications.warning(f"{self.name} is under way: wait for it, or cancel it")
        return self.progress is None

    def open_weights(self, weights: str | Path, show: Callable[[Path], object]) -> None:
        """Load a network, then call ``show`` with its file."""
        self._session.open(weights)
        self._begin("Opening weights", show)

    def run(self, name: str, work: Callable[[Report], Any], show: Callable[[Any], object]) -> None:
        """Run ``work`` in the background, then ``show`` with its result in the viewer's thread."""
        self._session.run(work)
        self._begin(name, show)

    def cancel(self) -> None:
        """Stop the task; what it has done of a volume is kept, and goes on under the same name."""
        self._session.cancel_task()
        if self.progress is not None:
            self._notifications.info(f"{self.name} was cancelled")
        self._end()

    def receive(self, message: Message) -> None:
        """Handle a message of the newest task."""
        match message:
            case Progress(_, done, total):
                self.progress = (done, total)
            case Opened(_, result) | Finished(_, result):
                self._end()
                self._show(result)
            case Failed(_, error):
                self._end()
                self._notifications.exception(error)

    def _begin(self, name: str, show: Callable[[Any], object]) -> None:
        self.name, self.progress, self._show = name, (0, 0), show
        self._on_change()

    def _end(self) -> None:
        self.name, self.progress = "", None
        self._on_change()
