"""How far a volume is."""

from __future__ import annotations

from collections.abc import Callable

from tqdm import tqdm

# Whether bars are shown; or what is called with (done, total) in hundredths of a slice, and may raise to stop the work.
Progress = bool | Callable[[int, int], object]


class SliceBar:
    """A progress bar that counts slices, and shows how far the one in work is."""

    def __init__(self, what: str, total: int, done: int, progress: Progress) -> None:
        form = "{desc} {percentage:3.0f}%|{bar}| {n:.1f}/{total} slices, {elapsed} so far, {remaining} left"
        self._bar = tqdm(total=total, initial=done, desc=what, bar_format=form, disable=progress is not True)
        self._report = progress if callable(progress) else None
        self._done, self._total = float(done), total

    def __enter__(self) -> SliceBar:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def within_slice(self, windows: int, total: int) -> None:
        self._show(self._done + min(windows / total, 0.99))

    def slice_done(self, count: int = 1) -> None:
        self._done += count
        self._show(self._done)

    def _show(self, done: float) -> None:
        self._bar.update(done - self._bar.n)
        if self._report is not None:
            self._report(int(100 * done), 100 * self._total)
