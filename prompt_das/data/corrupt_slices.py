"""Slices that cannot be read in the middle of a training: skipped, named once, counted, and only so many.

A sample carries the names of the slices that could not be read when it was drawn, in whichever process that was; the
process that trains removes them from the samples and counts them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from prompt_das.volumes.volume import VolumeError

logger = logging.getLogger(__name__)

T = TypeVar("T")
SKIPPED = "skipped"  # key of a sample that was drawn from another slice: image_id of each unreadable one -> why
MAX_NAMED = 10  # slices in an error message; the log has all


def require_at_most(corrupt: Mapping[str, str], most: int) -> None:
    """Raise VolumeError if more than ``most`` slices are in ``corrupt``, a dict from image_id to what is wrong."""
    if len(corrupt) <= most:
        return
    reasons = [f"{image_id}: {reason}" for image_id, reason in corrupt.items()]
    more = f" (and {len(reasons) - MAX_NAMED} more, see the log)" if len(reasons) > MAX_NAMED else ""
    raise VolumeError(
        f"{len(corrupt)} slice{'s' if len(corrupt) > 1 else ''} cannot be used, and DATALOADER.MAX_CORRUPT_SLICES "
        f"allows for {most}: {' '.join(reasons[:MAX_NAMED])}{more} `prompt-das check-data` lists all that is wrong "
        "with a data set. Mend these slices or raise the key, and continue with --resume."
    )


class CorruptSlices:
    """The slices that a run has skipped so far; each is warned about once.

    A resumed run starts with none: files may have been mended meanwhile, and those that were not are soon met again.
    Each of several training processes has its own; all of them meet all slices within a few epochs.
    """

    def __init__(self, most: int) -> None:
        """``most``: ``DATALOADER.MAX_CORRUPT_SLICES``."""
        self.most = most
        self.skipped: dict[str, str] = {}

    def log(self, corrupt: Mapping[str, str]) -> None:
        """Keep and log unreadable slices, image_id -> why. Raises VolumeError as soon as there are too many."""
        new = {image_id: reason for image_id, reason in corrupt.items() if image_id not in self.skipped}
        self.skipped |= new
        require_at_most(self.skipped, self.most)
        for image_id, reason in new.items():
            logger.warning(
                "Slice %s is skipped: %s (%d skipped, DATALOADER.MAX_CORRUPT_SLICES is %d)",
                *(image_id, reason, len(self.skipped), self.most),
            )

    def pop_skipped(self, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The samples without their reports of skipped slices, which are logged. Raises as :meth:`log`."""
        for sample in samples:
            self.log(sample.pop(SKIPPED, {}))
        return samples

    def read(
        self, slices: Iterable[dict[str, Any]], read: Callable[[dict[str, Any]], T]
    ) -> Iterator[tuple[dict[str, Any], T]]:
        """``(slice, read(slice))`` of all slices that can be read. Raises VolumeError, see :meth:`log`."""
        for dataset_dict in slices:
            try:
                result = read(dataset_dict)
            except VolumeError as error:
                self.log({dataset_dict["image_id"]: str(error)})
            else:
                yield dataset_dict, result
