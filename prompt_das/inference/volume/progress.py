"""How far a volume is."""

from __future__ import annotations

from tqdm import tqdm


class SliceBar:
    """A progress bar that counts slices, and shows how far the one in work is."""

    def __init__(self, what: str, total: int, done: int, shown: bool) -> None:
        form = "{desc} {percentage:3.0f}%|{bar}| {n:.1f}/{total} slices, {elapsed} so far, {remaining} left"
        self._bar = tqdm(total=total, initial=done, desc=what, bar_format=form, disable=not shown)
        self._done = float(done)

    def __enter__(self) -> SliceBar:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def within_slice(self, windows: int, total: int) -> None:
        self._bar.update(self._done + min(windows / total, 0.99) - self._bar.n)

    def slice_done(self, count: int = 1) -> None:
        self._done += count
        self._bar.update(self._done - self._bar.n)
