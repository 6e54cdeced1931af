"""Slices that cannot be read: each is named once, and there may be only so many."""

from __future__ import annotations

import logging
from typing import Any

from prompt_das.data.corrupt_slices import SKIPPED, CorruptSlices, require_at_most
from prompt_das.volumes.volume import VolumeError

import pytest


def test_with_none_allowed_for_the_first_one_is_too_many() -> None:
    require_at_most({}, 0)
    message = r"1 slice cannot be used, .*MAX_CORRUPT_SLICES allows for 0: a/3: cut off\..*check-data.*--resume"
    with pytest.raises(VolumeError, match=message):
        require_at_most({"a/3": "cut off."}, 0)


def test_many_are_named_in_part() -> None:
    with pytest.raises(VolumeError, match=r"12 slices cannot .* allows for 11: a/0: .* a/9: bad\. \(and 2 more, see"):
        require_at_most({f"a/{z}": "bad." for z in range(12)}, 11)


def test_each_slice_is_warned_about_once(caplog: pytest.LogCaptureFixture) -> None:
    corrupt = CorruptSlices(2)
    with caplog.at_level(logging.WARNING):
        for image_id in ("a/1", "a/1", "b/1", "a/1"):
            corrupt.log({image_id: f"file {image_id} is cut off."})
    assert [record.getMessage() for record in caplog.records] == [
        "Slice a/1 is skipped: file a/1 is cut off. (1 skipped, DATALOADER.MAX_CORRUPT_SLICES is 2)",
        "Slice b/1 is skipped: file b/1 is cut off. (2 skipped, DATALOADER.MAX_CORRUPT_SLICES is 2)",
    ]
    with pytest.raises(VolumeError, match=r"3 slices .* a/1: .* b/1: .* c/1: "):
        corrupt.log({"c/1": "gone."})


def test_reports_of_skipped_slices_are_removed_from_the_samples() -> None:
    corrupt = CorruptSlices(1)
    assert corrupt.pop_skipped([{"image": 1}, {"image": 2, SKIPPED: {"a/1": "bad."}}]) == [{"image": 1}, {"image": 2}]
    assert corrupt.skipped == {"a/1": "bad."}


def test_what_can_be_read_of_some_slices() -> None:
    def read(d: dict[str, Any]) -> str:
        if d["image_id"] == "a/1":
            raise VolumeError("bad.")
        return d["image_id"].upper()

    slices = [{"image_id": f"a/{z}"} for z in range(3)]
    assert [text for _, text in CorruptSlices(1).read(slices, read)] == ["A/0", "A/2"]
    with pytest.raises(VolumeError, match="1 slice cannot be used"):
        list(CorruptSlices(0).read(slices, read))
