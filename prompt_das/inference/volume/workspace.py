"""A long job that may be killed at any moment and goes on when it is started again.

While it works, everything is in the folder ``OUTPUT.part``:

    settings.json    what the job is; another job does not go on with its folder
    progress.jsonl   one line for each thing that is done, written after it is on the disk
    volume.zarr      the arrays, and what else is in the making

The result gets its own name at the very end, whole. The folder is locked while a process works in it.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from prompt_das.utils.atomic_write import atomic_write


class Workspace:
    """The folder of one job. Use it as a context manager.

    Args:
        output: where the result will be.
        settings: what decides about the result, as JSON.
        overwrite: replace a result that is there, and an unfinished one of other settings.

    Attributes:
        folder: of the job.
        notes: what was noted, by this process and those before.
        finished: the result is complete already; there is nothing to do.

    Raises:
        FileExistsError: there is a result already, an unfinished job of other settings, or a process at work.
    """

    def __init__(self, output: Path, settings: Mapping[str, Any], *, overwrite: bool = False) -> None:
        self.output = output
        self.folder = output.with_name(f"{output.name}.part")
        self.finished = False
        self.notes: list[dict[str, Any]] = []
        self._settings = json.loads(json.dumps(settings))
        if output.exists() and not self.folder.exists() and not overwrite:
            raise FileExistsError(f"{output} exists already; choose another name, or replace it with --overwrite")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.folder / "lock", "w")  # noqa: SIM115  (closed by __exit__)
        try:
            self._take_lock()
            self._resume_or_begin(overwrite)
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> Workspace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.close()

    def note(self, **what: Any) -> None:
        """Remember that something is done, also after a crash of the machine."""
        with open(self.folder / "progress.jsonl", "a") as file:
            file.write(json.dumps(what) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.notes.append(what)

    def finish(self, results: Mapping[str, Path]) -> None:
        """Move results (names in the folder) to their final places, ``output`` last, and remove the folder."""
        if not any("moving" in note for note in self.notes):
            self.note(moving={name: str(path) for name, path in results.items()})
        for name, path in sorted(results.items(), key=lambda item: item[1] == self.output):
            made = self.folder / name
            if not made.exists():  # moved, before the process was killed
                continue
            if path.is_dir() and not path.is_symlink():
                replaced = self.folder / f"{name}.replaced"
                shutil.rmtree(replaced, ignore_errors=True)
                path.rename(replaced)  # a folder cannot be replaced in one step
            made.replace(path)
        self._remove()

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FileExistsError(f"another process is at work in {self.folder}; wait for it, or stop it") from None

    def _resume_or_begin(self, overwrite: bool) -> None:
        settings, progress = self.folder / "settings.json", self.folder / "progress.jsonl"
        if settings.exists():
            before = json.loads(settings.read_text())
            other = sorted(key for key in {*before, *self._settings} if before.get(key) != self._settings.get(key))
            if other and not overwrite:
                changes = ", ".join(f"{key} {before.get(key)!r} -> {self._settings.get(key)!r}" for key in other)
                raise FileExistsError(
                    f"{self.folder} was begun with other settings ({changes}); "
                    "use the same to go on, or --overwrite to begin again"
                )
            if other:
                self._clear()
        elif progress.exists():  # killed while it removed the folder
            self._remove()
            return
        elif self.output.exists() and not overwrite:  # killed at its last or its first step
            shutil.rmtree(self.folder)
            raise FileExistsError(f"{self.output} exists already; choose another name, or replace it with --overwrite")
        if not settings.exists():
            with atomic_write(settings) as part:
                part.write_text(json.dumps(self._settings, indent=1))
        if progress.exists():
            whole = [line for line in progress.read_text().splitlines(keepends=True) if line.endswith("\n")]
            self.notes = [json.loads(line) for line in whole]
            with atomic_write(progress) as part:  # without a last line that was cut off
                part.write_text("".join(whole))
        for note in self.notes:
            if "moving" in note:
                self.finish({name: Path(path) for name, path in note["moving"].items()})

    def _clear(self) -> None:
        """Remove what is in the folder; what says how far the job is, last."""
        last = ["settings.json", "progress.jsonl", "lock"]
        for path in sorted(self.folder.iterdir(), key=lambda path: path.name in last and 1 + last.index(path.name)):
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "lock":
                path.unlink()

    def _remove(self) -> None:
        self._clear()
        shutil.rmtree(self.folder)
        self.finished = True
