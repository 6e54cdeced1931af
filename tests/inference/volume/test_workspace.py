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


def test_what_was_logged_is_in_the_journal_of_the_next_process(output: Path) -> None:
    with Workspace(output, SETTINGS) as work:
        work.log(slice=3)
    with open(output.parent / "result.zarr.part" / "progress.jsonl", "a") as file:
        file.write('{"slice": 4')  # killed while it wrote
    with Workspace(output, SETTINGS) as work:
        assert work.journal == [{"slice": 3}]
        work.log(slice=5)
    with Workspace(output, SETTINGS) as work:
        assert work.journal == [{"slice": 3}, {"slice": 5}]


def test_killed_between_the_moves(output: Path) -> None:
    beside = output.with_name("beside.tif")
    with Workspace(output, SETTINGS) as work:
        make_result(work)
        (work.folder / "other").write_text("other")
        work.log(moving={"made": str(output), "other": str(beside)})
        (work.folder / "other").replace(beside)
    with Workspace(output, SETTINGS) as work:
        assert work.finished
    assert (output / "content").read_text() == "new"
    assert beside.read_text() == "other"
    assert not work.folder.exists()


def test_killed_before_the_folder_was_removed(output: Path) -> None:
    output.mkdir()
    with Workspace(output, SETTINGS, overwrite=True) as work:
        work.log(moving={"made": str(output)})  # and moved
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


def test_a_result_is_replaced_only_with_overwrite(output: Path) -> None:
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
        work.log(slice=1)
        make_result(work)
    with pytest.raises(FileExistsError, match=r"other settings \(threshold 0\.5 -> 0\.7\)"):
        Workspace(output, {**SETTINGS, "threshold": 0.7})
    with Workspace(output, {**SETTINGS, "threshold": 0.7}, overwrite=True) as work:
        assert work.journal == [{"overwrite": True}]
        assert not (work.folder / "made").exists()


def test_two_processes_do_not_write_the_same(output: Path) -> None:
    with Workspace(output, SETTINGS), pytest.raises(FileExistsError, match="another process is at work"):
        Workspace(output, SETTINGS)
    with Workspace(output, SETTINGS):
        pass


def test_a_folder_of_another_program_is_not_touched(output: Path) -> None:
    folder = output.with_name("result.zarr.part")
    folder.mkdir()
    (folder / "theirs.txt").write_text("theirs")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match=r"part was not made by this program \(it holds theirs\.txt\)"):
            Workspace(output, SETTINGS, overwrite=overwrite)
    assert [path.name for path in folder.iterdir()] == ["theirs.txt"]


def test_files_beside_the_output_are_replaced_only_with_overwrite(output: Path) -> None:
    beside = output.with_name("result_density.tif")
    beside.write_text("theirs")
    with pytest.raises(FileExistsError, match=r"result_density\.tif exists already"):
        Workspace(output, SETTINGS, beside=[beside])
    assert list(output.parent.iterdir()) == [beside]
    with Workspace(output, SETTINGS, beside=[beside], overwrite=True):
        pass
    with Workspace(output, SETTINGS, beside=[beside]):  # goes on, as begun
        assert beside.read_text() == "theirs"


def test_a_file_that_appears_while_the_job_is_stopped_is_not_replaced(output: Path) -> None:
    beside = output.with_name("result_density.tif")
    with Workspace(output, SETTINGS, beside=[beside]) as work:
        work.log(slice=1)
    beside.write_text("theirs")
    with pytest.raises(FileExistsError, match=r"result_density\.tif exists already"):
        Workspace(output, SETTINGS, beside=[beside])


def test_a_result_that_lost_its_content_is_not_called_complete(output: Path) -> None:
    """The machine lost power after the moves: the file has its name, and no content."""
    with Workspace(output, SETTINGS) as work, pytest.MonkeyPatch.context() as patch:
        make_result(work)
        patch.setattr(Workspace, "_remove", lambda self: None)
        work.finish({"made": output})
    (output / "content").write_text("")
    with pytest.raises(OSError, match=r"result\.zarr is damaged: 1 files of 0 bytes instead of 1 of 3"):
        Workspace(output, SETTINGS)
    with Workspace(output, SETTINGS, overwrite=True) as work:
        assert not work.finished
        assert not any("moving" in line for line in work.journal)


def test_settings_that_are_tables_name_the_entries_that_differ(output: Path) -> None:
    with Workspace(output, {"inputs": {"a.png": 1, "b.png": 2}}):
        pass
    with pytest.raises(FileExistsError, match=r"\(inputs: b\.png 2 -> 3\)"):
        Workspace(output, {"inputs": {"a.png": 1, "b.png": 3}})
