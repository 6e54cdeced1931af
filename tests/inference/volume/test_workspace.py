"""A job that may be killed at any moment."""

from __future__ import annotations

from pathlib import Path

from prompt_das.inference.volume.workspace import Workspace

import pytest

SETTINGS = {"threshold": 0.5, "size": (1, 2)}


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "result.zarr"


def make_result(work: Workspace) -> None:
    (work.folder / "made").mkdir()
    (work.folder / "made" / "content").write_text("new")


def test_the_result_appears_when_it_is_complete_and_nothing_else_stays(output: Path) -> None:
    with Workspace(output, SETTINGS) as work:
        make_result(work)
        assert not output.exists()
        work.finish({"made": output})
    assert (output / "content").read_text() == "new"
    assert list(output.parent.iterdir()) == [output]


def test_what_was_noted_is_known_to_the_next_process(output: Path) -> None:
    with Workspace(output, SETTINGS) as work:
        work.note(slice=3)
    with open(output.parent / "result.zarr.part" / "progress.jsonl", "a") as file:
        file.write('{"slice": 4')  # killed while it wrote
    with Workspace(output, SETTINGS) as work:
        assert work.notes == [{"slice": 3}]
        work.note(slice=5)
    with Workspace(output, SETTINGS) as work:
        assert work.notes == [{"slice": 3}, {"slice": 5}]


def test_killed_between_the_moves(output: Path) -> None:
    beside = output.with_name("beside.tif")
    with Workspace(output, SETTINGS) as work:
        make_result(work)
        (work.folder / "other").write_text("other")
        work.note(moving={"made": str(output), "other": str(beside)})
        (work.folder / "other").replace(beside)
    with Workspace(output, SETTINGS) as work:
        assert work.finished
    assert (output / "content").read_text() == "new"
    assert beside.read_text() == "other"
    assert not work.folder.exists()


def test_killed_before_the_folder_was_removed(output: Path) -> None:
    output.mkdir()
    with Workspace(output, SETTINGS, overwrite=True) as work:
        work.note(moving={"made": str(output)})  # and moved
    with Workspace(output, SETTINGS) as work:
        assert work.finished
    assert not work.folder.exists()


@pytest.mark.parametrize("removed", [0, 1, 2])
def test_killed_while_the_folder_was_removed(output: Path, monkeypatch: pytest.MonkeyPatch, removed: int) -> None:
    left, unlink = iter(range(removed, -1, -1)), Path.unlink

    def unlink_some(self: Path, missing_ok: bool = False) -> None:
        if self.parent.suffix == ".part" and next(left) == 0:
            raise KeyboardInterrupt
        unlink(self, missing_ok)

    with Workspace(output, SETTINGS) as work, monkeypatch.context() as patch:
        make_result(work)
        patch.setattr(Path, "unlink", unlink_some if removed < 2 else unlink)
        if removed == 2:
            patch.setattr("shutil.rmtree", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            work.finish({"made": output})
    assert work.folder.exists()
    if removed == 2:  # nothing but the lock is left
        with pytest.raises(FileExistsError, match="exists already"):
            Workspace(output, SETTINGS)
    else:
        with Workspace(output, SETTINGS) as work:
            assert work.finished
    assert list(output.parent.iterdir()) == [output]


def test_a_result_is_not_replaced_unless_asked_for(output: Path) -> None:
    output.mkdir()
    (output / "content").write_text("old")
    with pytest.raises(FileExistsError, match=r"result\.zarr exists already; .*--overwrite"):
        Workspace(output, SETTINGS)
    assert list(output.parent.iterdir()) == [output]
    with Workspace(output, SETTINGS, overwrite=True) as work:
        make_result(work)
        assert (output / "content").read_text() == "old"  # until the new one is complete
        work.finish({"made": output})
    assert (output / "content").read_text() == "new"


def test_other_settings_do_not_go_on_with_what_is_there(output: Path) -> None:
    with Workspace(output, SETTINGS) as work:
        work.note(slice=1)
        make_result(work)
    with pytest.raises(FileExistsError, match=r"other settings \(threshold 0\.5 -> 0\.7\)"):
        Workspace(output, {**SETTINGS, "threshold": 0.7})
    with Workspace(output, {**SETTINGS, "threshold": 0.7}, overwrite=True) as work:
        assert work.notes == []
        assert not (work.folder / "made").exists()


def test_two_processes_do_not_write_the_same(output: Path) -> None:
    with Workspace(output, SETTINGS), pytest.raises(FileExistsError, match="another process is at work"):
        Workspace(output, SETTINGS)
    with Workspace(output, SETTINGS):
        pass
