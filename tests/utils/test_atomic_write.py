"""Files that are either complete or not there."""

from __future__ import annotations

from pathlib import Path

from prompt_das.utils.atomic_write import atomic_folder, atomic_write

import pytest


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "a.txt"
    with atomic_write(path) as part:
        part.write_text("half")
        assert not path.exists()
        part.write_text("whole")
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_after_an_error_the_file_is_what_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("before")

    def fail() -> None:
        with atomic_write(path) as part:
            part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results"
    with atomic_folder(path) as part:
        (part / "a.txt").write_text("a")
        assert not path.exists()
    assert [one.name for one in path.iterdir()] == ["a.txt"]
    assert list(path.parent.iterdir()) == [path]


def test_an_empty_folder_may_be_filled_and_another_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "results"
    path.mkdir()
    with atomic_folder(path) as part:
        (part / "a.txt").touch()
    with pytest.raises(FileExistsError, match="results exists already"), atomic_folder(path):
        pass
    assert [one.name for one in path.iterdir()] == ["a.txt"]


def test_after_an_error_there_is_no_folder(tmp_path: Path) -> None:
    def fail() -> None:
        with atomic_folder(tmp_path / "results") as part:
            (part / "a.txt").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []
