"""Checkpoints: safe to read, whole or not at all, strict about names."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prompt_das.checkpoint import BEST, PromptDASCheckpointer, read_checkpoint

import pytest
import torch
from torch import nn


def network(value: float, size: int = 2) -> nn.Linear:
    model = nn.Linear(size, 1)
    nn.init.constant_(model.weight, value)
    nn.init.constant_(model.bias, value)
    return model


class State:
    """Something with a state, as the trainer and its hooks have one."""

    def __init__(self, **state: Any) -> None:
        self.state = state

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A checkpoint of a student of ones, a teacher of twos, and a trainer."""
    trainer = State(iteration=7, hooks={"BestCheckpointer": {"best_metric": 81.5, "best_iter": None}})
    PromptDASCheckpointer(network(1), str(tmp_path), teacher=network(2), trainer=trainer).save("model_0000007")
    return tmp_path / "model_0000007.pth"


# ---- round trip


def test_a_run_is_continued_with_all_it_had(saved: Path) -> None:
    student, teacher, trainer = network(0), network(0), State()
    checkpointer = PromptDASCheckpointer(student, str(saved.parent), teacher=teacher, trainer=trainer)
    checkpointer.resume_or_load("", resume=True)
    assert student.weight.tolist() == [[1, 1]]
    assert teacher.weight.tolist() == [[2, 2]]
    assert trainer.state == {"iteration": 7, "hooks": {"BestCheckpointer": {"best_metric": 81.5, "best_iter": None}}}


@pytest.mark.parametrize(("weights_from", "value"), [("teacher", 2), ("model", 1)])
def test_a_key_chooses_whose_weights_a_checkpoint_gives(saved: Path, weights_from: str, value: float) -> None:
    """With MODEL.WEIGHTS only the weights are taken: of the teacher, or of the student."""
    student, trainer = network(0), State(iteration=0)
    checkpointer = PromptDASCheckpointer(student, weights_from=weights_from, trainer=trainer)
    checkpointer.resume_or_load(str(saved), resume=False)
    assert student.weight.tolist() == [[value, value]]
    assert trainer.state == {"iteration": 0}


def test_resuming_takes_the_student_s_weights_for_the_student(saved: Path) -> None:
    """The choice is about MODEL.WEIGHTS only; a run that goes on must not mix up the two."""
    student = network(0)
    PromptDASCheckpointer(student, str(saved.parent), weights_from="teacher").resume_or_load("", resume=True)
    assert student.weight.tolist() == [[1, 1]]


def test_without_a_checkpoint_resume_starts_from_the_given_weights(saved: Path, tmp_path: Path) -> None:
    student = network(0)
    PromptDASCheckpointer(student, str(tmp_path / "new")).resume_or_load(str(saved), resume=True)
    assert student.weight.tolist() == [[2, 2]]


def test_plain_weights_of_others_load_too(tmp_path: Path) -> None:
    torch.save(network(3).state_dict(), tmp_path / "plain.pth")
    student = network(0)
    PromptDASCheckpointer(student).load(str(tmp_path / "plain.pth"), checkpointables=[])
    assert student.weight.tolist() == [[3, 3]]


def test_the_best_checkpoint_is_not_resumed_from(saved: Path) -> None:
    PromptDASCheckpointer(network(9), str(saved.parent)).save(BEST)
    assert (saved.parent / "last_checkpoint").read_text() == saved.name
    student = network(0)
    PromptDASCheckpointer(student, str(saved.parent)).resume_or_load("", resume=True)
    assert student.weight.tolist() == [[1, 1]]


# ---- weights that do not fit


def test_a_name_that_is_missing_is_named(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1, 2)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"do not fit.*missing: \['bias'\]"):
        PromptDASCheckpointer(network(0)).load(str(tmp_path / "w.pth"), checkpointables=[])


def test_a_name_too_many_is_named(tmp_path: Path) -> None:
    torch.save({**network(0).state_dict(), "head.weight": torch.zeros(3)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"do not fit.*unexpected: \['head.weight'\]"):
        PromptDASCheckpointer(network(0)).load(str(tmp_path / "w.pth"), checkpointables=[])


def test_a_shape_that_differs_is_named_with_both_shapes(tmp_path: Path) -> None:
    torch.save(network(0, size=5).state_dict(), tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"another shape.*'weight', \(1, 5\), \(1, 2\)"):
        PromptDASCheckpointer(network(0, size=2)).load(str(tmp_path / "w.pth"), checkpointables=[])


# ---- files that are no checkpoints


class Hostile:
    """Unpickling it calls a function of the file's choice."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Callable, tuple]:
        return Path.touch, (self.victim,)


def write_with_torch(content: object, path: Path) -> None:
    torch.save(content, path)


def write_as_old_torch(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def write_with_pickle(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize("write", [write_with_torch, write_as_old_torch, write_with_pickle])
def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, write: Callable[[object, Path], None]) -> None:
    victim, path = tmp_path / "victim", tmp_path / "hostile.pth"
    write({"model": {"weight": Hostile(victim)}}, path)
    with pytest.raises(ValueError, match=r"hostile\.pth") as error:
        PromptDASCheckpointer(network(0)).load(str(path))
    assert "refused" in str(error.value) or "not a readable checkpoint" in str(error.value)
    assert not victim.exists()


@pytest.mark.parametrize("kept", [0, 1, 10, 100, 0.5, 0.99])
def test_a_file_that_was_cut_off_is_named(saved: Path, kept: float) -> None:
    """So many bytes of it are left, or such a share."""
    content = saved.read_bytes()
    saved.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(ValueError, match=r"model_0000007\.pth"):
        read_checkpoint(saved)


@pytest.mark.parametrize("content", [b"hello", b"\x89PNG\r\n\x1a\n" + bytes(100), b"PK\x03\x04" + bytes(100)])
def test_files_of_another_kind_are_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"other\.pth"):
        read_checkpoint(path)


def test_a_checkpoint_is_a_dict(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match=r"list\.pth holds a list, not a checkpoint"):
        read_checkpoint(tmp_path / "list.pth")


def test_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no weights at .*absent\.pth; check MODEL.WEIGHTS"):
        read_checkpoint(tmp_path / "absent.pth")
    with pytest.raises(FileNotFoundError, match=r"no weights at .*absent\.pth; check MODEL.WEIGHTS"):
        PromptDASCheckpointer(network(0)).load(str(tmp_path / "absent.pth"), checkpointables=[])


# ---- writing


def test_a_crash_while_saving_leaves_the_file_of_before(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def half_a_file(data: dict, file: Any) -> None:
        Path(file).write_bytes(before[: len(before) // 2])
        raise OSError("No space left on device")

    with monkeypatch.context() as m:
        m.setattr(torch, "save", half_a_file)
        with pytest.raises(OSError, match="No space left"):
            PromptDASCheckpointer(network(5), str(saved.parent)).save("model_0000007")
        with pytest.raises(OSError, match="No space left"):
            PromptDASCheckpointer(network(5), str(saved.parent)).save("model_0000008")
    assert saved.read_bytes() == before
    assert not (saved.parent / "model_0000008.pth").exists()
    student = network(0)
    PromptDASCheckpointer(student, str(saved.parent)).resume_or_load("", resume=True)  # still tagged as the last
    assert student.weight.tolist() == [[1, 1]]
    PromptDASCheckpointer(network(5), str(saved.parent)).save("model_0000007")
    assert {p.name for p in saved.parent.glob("*.pth*")} == {saved.name}


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    PromptDASCheckpointer(network(0)).save("model")
    assert not list(tmp_path.iterdir())
