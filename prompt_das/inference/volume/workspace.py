"""A long job that may be killed at any moment and goes on when it is started again.

While it works, everything is in the folder ``OUTPUT.part``:

    made_by_prompt_das   marks the folder as this program's; a folder without it is never touched
    settings.json        what the job is; another job does not go on with its folder
    progress.jsonl       the journal: one line for each thing that is done, written after it is on the disk
    volume.zarr          the arrays, and what else is in the making

The results get their names at the very end, when they are complete. The folder is locked while a process works in it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from prompt_das.inference.volume.durable import make_receipt, sync_tree
from prompt_das.utils.atomic_write import atomic_write, sync_folder
from prompt_das.utils.output_paths import MARKER, claim_folder

_NAMED = 3  # differences of a setting that an error lists


class Workspace:
    """The folder of one job. Use it as a context manager.

    Args:
        output: where the result will be.
        settings: what decides about the result, as JSON.
        beside: further files that the results will be moved to.
        overwrite: replace results that are there, and an unfinished job of other settings.

    Attributes:
        folder: of the job.
        journal: what was logged, by this process and those before.
        finished: the result is complete already; there is nothing to do.

    Raises:
        FileExistsError: there is a result already, an unfinished job of other settings, a folder of another program,
            or a process at work.
        OSError: a result that was being moved is damaged.
    """

    def __init__(
        self, output: Path, settings: Mapping[str, Any], *, beside: Iterable[Path] = (), overwrite: bool = False
    ) -> None:
        self.output = output
        self.folder = output.with_name(f"{output.name}.part")
        self.finished = False
        self.journal: list[dict[str, Any]] = []
        self._settings = json.loads(json.dumps(settings))
        self._results = [output, *beside]
        if not self.folder.exists() and not overwrite:
            self._refuse_existing()
        self._mark_folder()
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

    def log(self, **what: Any) -> None:
        """Add a line to the journal, flushed to the disk. What the line lists must have been flushed before."""
        new = not (self.folder / "progress.jsonl").exists()
        with open(self.folder / "progress.jsonl", "a") as file:
            file.write(json.dumps(what) + "\n")
            file.flush()
            os.fsync(file.fileno())
        if new:
            sync_folder(self.folder)
        self.journal.append(what)

    def rewrite(self, journal: Sequence[Mapping[str, Any]]) -> None:
        """Replace the journal."""
        with atomic_write(self.folder / "progress.jsonl") as part:
            part.write_text("".join(json.dumps(line) + "\n" for line in journal))
        self.journal = [dict(line) for line in journal]

    def finish(self, results: Mapping[str, Path]) -> None:
        """Move results (names in the folder) to their final places, ``output`` last, and remove the folder.

        Each is flushed to the disk before the journal lists it; where a process before this one has listed it, it is
        compared with its receipt before it is moved.

        Raises:
            OSError: a result is not what was written: the machine lost power, or the disk is damaged.
        """
        if not any("moving" in line for line in self.journal):
            for name in results:
                sync_tree(self.folder / name)
            sync_folder(self.folder)
            receipts = {name: make_receipt(self.folder / name) for name in results}
            self.log(moving={name: str(path) for name, path in results.items()}, receipts=receipts)
        else:
            self._check_results()
        for name, path in sorted(results.items(), key=lambda item: item[1] == self.output):
            made = self.folder / name
            if not made.exists():  # moved, before the process was killed
                continue
            if path.is_dir() and not path.is_symlink():
                replaced = self.folder / f"{name}.replaced"
                shutil.rmtree(replaced, ignore_errors=True)
                path.rename(replaced)  # a folder cannot be replaced in one step
            _move(made, path)
        self._remove()

    def _check_results(self) -> None:
        """Compare the results, wherever they are by now, with their receipts."""
        for line in self.journal:
            for name, receipt in line.get("receipts", {}).items():
                made, path = self.folder / name, Path(line["moving"][name])
                found = make_receipt(made if made.exists() else path)
                if found != receipt:
                    raise OSError(
                        f"{path} is damaged: {found['files']} files of {found['bytes']} bytes instead of "
                        f"{receipt['files']} of {receipt['bytes']}, or other content (did the machine lose power?); "
                        "begin again with --overwrite"
                    )

    def _refuse_existing(self) -> None:
        for path in self._results:
            if path.exists():
                raise FileExistsError(f"{path} exists already; choose another name, or replace it with --overwrite")

    def _mark_folder(self) -> None:
        if claim_folder(self.folder, ignore=["lock"]):
            sync_folder(self.folder)
            sync_folder(self.folder.parent)

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FileExistsError(f"another process is at work in {self.folder}; wait for it, or stop it") from None

    def _resume_or_begin(self, overwrite: bool) -> None:
        settings, progress = self.folder / "settings.json", self.folder / "progress.jsonl"
        if progress.exists():
            complete = [line for line in progress.read_text().splitlines(keepends=True) if line.endswith("\n")]
            self.rewrite([json.loads(line) for line in complete])  # without a last line that was cut off
        moving = any("moving" in line for line in self.journal)
        if settings.exists():
            before = json.loads(settings.read_text())
            changes = describe_differences(before, self._settings)
            if changes and not overwrite:
                raise FileExistsError(
                    f"{self.folder} was begun with other settings ({', '.join(changes)}); "
                    "use the same to go on, or --overwrite to begin again"
                )
            if changes:
                self._clear()
                self.journal, moving = [], False
            elif not (overwrite or moving or any(line.get("overwrite") for line in self.journal)):
                self._refuse_existing()
        elif progress.exists():  # killed while it removed the folder
            self._check_results()
            self._remove()
            return
        elif not overwrite and any(path.exists() for path in self._results):  # killed at its last or its first step
            shutil.rmtree(self.folder)
            self._refuse_existing()
        if moving and overwrite:
            try:
                self._check_results()
            except OSError:
                self._clear()
                self.journal, moving = [], False
        if not settings.exists():
            with atomic_write(settings) as part:
                part.write_text(json.dumps(self._settings, indent=1))
        if overwrite and not any(line.get("overwrite") for line in self.journal):
            self.log(overwrite=True)
        for line in self.journal:
            if "moving" in line:
                self.finish({name: Path(path) for name, path in line["moving"].items()})
                return

    def _clear(self) -> None:
        """Remove what is in the folder; the settings and the journal last."""
        last = ["settings.json", "progress.jsonl", "lock", MARKER]
        for path in sorted(self.folder.iterdir(), key=lambda path: path.name in last and 1 + last.index(path.name)):
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name not in ("lock", MARKER):
                path.unlink()

    def _remove(self) -> None:
        self._clear()
        shutil.rmtree(self.folder)
        sync_folder(self.folder.parent)
        self.finished = True


def _move(made: Path, path: Path) -> None:
    """Rename a result, or copy a file to another file system; the new name is on the disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        made.replace(path)
    except OSError as error:
        if error.errno != errno.EXDEV or made.is_dir():
            raise
        with atomic_write(path) as part:
            shutil.copyfile(made, part)
        made.unlink()
    sync_folder(path.parent)


def describe_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Describe each setting that differs, "name before -> now"; of a table only the entries that differ."""
    changes = []
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            entries = [f"{key}: {change}" for change in describe_differences(old, new)]
            more = len(entries) - _NAMED
            changes += [*entries[:_NAMED], *([f"{key}: {more} more"] if more > 0 else [])]
        else:
            changes.append(f"{key} {old!r} -> {new!r}")
    return changes
