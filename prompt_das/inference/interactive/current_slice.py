"""The slice that calls are about. Threads share it: a lock guards its maps, and only the newest call changes them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from prompt_das.inference.interactive.image import SliceImage
from prompt_das.inference.interactive.newest_call import NewestCall, Superseded
from prompt_das.inference.interactive.slice_maps import SliceMaps
from prompt_das.modeling.meta_arch import PromptDAS


class CurrentSlice:
    """The maps of the image that was set last.

    Attributes:
        maps: None before the first image.
    """

    def __init__(self, model: PromptDAS, calls: NewestCall) -> None:
        self.maps: SliceMaps | None = None
        self._model = model
        self._calls = calls
        self._ticket = 0  # of the call that set the image
        self._lock = threading.Lock()  # never held while the network works

    def set(self, image: SliceImage, ticket: int) -> None:
        """Make an image the current one; the maps of an equal image stay.

        Raises:
            Superseded: a newer call has set another image.
            ValueError: see :meth:`SliceImage.network_input`.
        """
        with self._lock:
            self._set(image, ticket)

    def begin(self, image: SliceImage | None, expected: SliceMaps | None, ticket: int) -> SliceMaps:
        """The maps that a call works on: of its own ``image``, or else the ``expected`` ones.

        Raises:
            Superseded: there is a newer call, or the image is not the expected one any more.
            ValueError: see :meth:`set`.
        """
        with self.locked(ticket):
            if image is not None:
                return self._set(image, ticket)
            if expected is None or expected is not self.maps:
                raise Superseded("another image was set")
            return expected

    @contextmanager
    def locked(self, ticket: int) -> Iterator[None]:
        """Hold the lock, to read or change the maps. Raises Superseded if the ticket is not the newest call's."""
        with self._lock:
            self._calls.check(ticket)
            yield

    def _set(self, image: SliceImage, ticket: int) -> SliceMaps:
        if ticket < self._ticket:
            raise Superseded("a newer image was set")
        key = image.digest()
        if self.maps is None or self.maps.key != key:
            self.maps = SliceMaps(
                key,
                image.size,
                image.network_input(),
                self._model.window,
                self._model.device,
                self._model.rules,
            )
        self._ticket = ticket
        return self.maps
