"""Checkpoints: safe to read, whole or not at all, strict about names."""

from __future__ import annotations

import logging
import pickle
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prompt_das.checkpoint.checkpointer import BEST, PromptDASCheckpointer
from prompt_das.checkpoint.safe_load import (
    DamagedCheckpointError,
    export_weights,
    read_checkpoint,
    read_config,
    read_metadata,
)

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
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


def test_a_checkpoint_has_the_config_of_its_run_inside(tmp_path: Path) -> None:
    PromptDASCheckpointer(network(1), str(tmp_path), config="SEED: 3\n", teacher=network(2)).save("model_0000007")
    assert read_config(tmp_path / "model_0000007.pth") == "SEED: 3\n"
    student = network(0)
    PromptDASCheckpointer(student, str(tmp_path), teacher=network(0)).resume_or_load("", resume=True)
    assert student.weight.tolist() == [[1, 1]]


def test_checkpoints_of_earlier_releases_have_none(saved: Path, tmp_path: Path) -> None:
    assert read_config(saved) == ""
    torch.save(network(3).state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert read_config(tmp_path / "old.pth") == ""


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


# ---- the last two


@pytest.fixture
def run(tmp_path: Path) -> PromptDASCheckpointer:
    """A run that wrote checkpoints 1 to 4, whose weights are their numbers."""
    run = PromptDASCheckpointer(network(0), str(tmp_path))
    for number in range(1, 5):
        nn.init.constant_(run.model.weight, number)
        run.save(f"model_{number:07d}", iteration=number)
    return run


def resumed(folder: Path) -> tuple[float, PromptDASCheckpointer]:
    student = network(0)
    run = PromptDASCheckpointer(student, str(folder))
    run.resume_or_load("", resume=True)
    return student.weight[0, 0].item(), run


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_last_two_are_kept(run: PromptDASCheckpointer, tmp_path: Path) -> None:
    tags = {"last_checkpoint", "previous_checkpoint"}
    assert names(tmp_path) == {"model_0000003.pth", "model_0000004.pth", *tags}
    run.save("model_0000005")
    run.save(BEST)
    run.save("model_final")
    named = {"model_best.pth", "model_final.pth"}
    assert names(tmp_path) == {"model_0000004.pth", "model_0000005.pth", *named, *tags}


def test_the_one_before_goes_when_the_new_one_is_there(
    run: PromptDASCheckpointer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every step of saving, two checkpoints can be resumed from."""
    seen = []
    replace = Path.replace

    def replace_and_list(part: Path, to: Path) -> None:
        replace(part, to)
        seen.append((to.name, sorted(p.name for p in tmp_path.glob("model_*.pth"))))

    monkeypatch.setattr(Path, "replace", replace_and_list)
    run.save("model_0000005")
    three = [f"model_000000{i}.pth" for i in (3, 4, 5)]
    assert seen == [(name, three) for name in ("model_0000005.pth", "previous_checkpoint", "last_checkpoint")]
    assert sorted(p.name for p in tmp_path.glob("model_*.pth")) == three[1:]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    """One bit of a weight: torch.load takes it as it is."""
    content = bytearray(path.read_bytes())
    content[content.index(torch.full((2,), 4.0).numpy().tobytes())] ^= 16
    path.write_bytes(content)
    assert torch.load(path)["model"]["weight"][0, 0] != 4


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, flip, empty, Path.unlink])
def test_a_damaged_newest_one_falls_back_to_the_one_before(
    run: PromptDASCheckpointer, tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    damage(tmp_path / "model_0000004.pth")
    with caplog.at_level(logging.WARNING):
        value, continued = resumed(tmp_path)
    assert value == 3
    assert "Resuming from model_0000003.pth, since a newer one cannot be read: model_0000004.pth" in caplog.text
    continued.save("model_0000005")  # and it does not take the damaged one for a good one
    assert (tmp_path / "previous_checkpoint").read_text() == "model_0000003.pth"
    assert resumed(tmp_path)[0] == 3
    assert not (tmp_path / "model_0000004.pth").exists()


def test_where_both_are_damaged_nothing_is_begun_anew(run: PromptDASCheckpointer, tmp_path: Path) -> None:
    for number in (3, 4):
        cut(tmp_path / f"model_000000{number}.pth")
    with pytest.raises(DamagedCheckpointError, match=r"no checkpoint in .*0000004\.pth: .*0000003\.pth: .*Restore one"):
        resumed(tmp_path)


@pytest.mark.parametrize("content", ["", "\0\0\0", "nowhere.pth"])
def test_a_damaged_name_of_the_last_one(run: PromptDASCheckpointer, tmp_path: Path, content: str) -> None:
    (tmp_path / "last_checkpoint").write_text(content)
    assert resumed(tmp_path)[0] == 3


def test_weights_of_another_network_are_not_damage(run: PromptDASCheckpointer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="do not fit the network"):
        PromptDASCheckpointer(network(0, size=5), str(tmp_path)).resume_or_load("", resume=True)


def test_a_new_run_in_an_old_folder_never_falls_back_to_the_old_one(run: PromptDASCheckpointer, tmp_path: Path) -> None:
    new = PromptDASCheckpointer(network(9), str(tmp_path))
    new.resume_or_load("", resume=False)
    new.save("model_0000008")
    cut(tmp_path / "model_0000008.pth")
    with pytest.raises(DamagedCheckpointError, match=r"0000008"):
        resumed(tmp_path)


def test_what_a_killed_process_left_is_removed(run: PromptDASCheckpointer, tmp_path: Path) -> None:
    (tmp_path / "model_0000005.pth.99999.part").write_bytes(bytes(1000))
    run.save("model_0000005")
    assert not list(tmp_path.glob("*.part"))


def test_a_flipped_bit_is_refused_or_harmless(saved: Path, rng: np.random.Generator) -> None:
    """Anywhere in the file: it is refused, or what is read is right (padding and dates do not matter)."""
    content, good = saved.read_bytes(), read_checkpoint(saved)
    refused = 0
    for bit in rng.integers(8 * len(content), size=300):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << (bit % 8)
        saved.write_bytes(damaged)
        try:
            read = read_checkpoint(saved)
        except ValueError as e:
            assert saved.name in str(e)  # noqa: PT017
            refused += 1
        else:
            assert str(read) == str(good)
    assert refused > 30


# ---- weights that do not fit


def test_a_name_that_is_missing_is_named(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1, 2)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"do not fit.*missing: bias"):
        PromptDASCheckpointer(network(0)).load(str(tmp_path / "w.pth"), checkpointables=[])


def test_a_name_too_many_is_named(tmp_path: Path) -> None:
    torch.save({**network(0).state_dict(), "head.weight": torch.zeros(3)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"do not fit.*unexpected: head.weight"):
        PromptDASCheckpointer(network(0)).load(str(tmp_path / "w.pth"), checkpointables=[])


def test_weights_of_distributed_data_parallel_load_without_their_prefix(tmp_path: Path) -> None:
    torch.save({f"module.{name}": value for name, value in network(3).state_dict().items()}, tmp_path / "w.pth")
    loaded = network(0)
    PromptDASCheckpointer(loaded).load(str(tmp_path / "w.pth"), checkpointables=[])
    assert loaded.weight.tolist() == [[3, 3]]


def test_a_shape_that_differs_is_named_with_both_shapes(tmp_path: Path) -> None:
    torch.save(network(0, size=5).state_dict(), tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"another shape.*weight \(1, 5\), \(1, 2\)"):
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
        with pytest.raises(OSError, match=r"model_0000007\.pth could not be written: No space left.*--resume"):
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


def test_a_full_disk_is_named_and_the_last_one_is_intact(run: PromptDASCheckpointer, tmp_path: Path) -> None:
    """The kernel refuses files of more than 1 kB: what torch's writer says of it is neither OSError nor clear."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"0000005\.pth could not be written.*0000004\.pth is intact.*disk full"):
            run.save("model_0000005")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert resumed(tmp_path)[0] == 4
    assert names(tmp_path) == {f"model_000000{i}.pth" for i in (3, 4)} | {"last_checkpoint", "previous_checkpoint"}


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    PromptDASCheckpointer(network(0)).save("model")
    assert not list(tmp_path.iterdir())


# ---- shared files


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    state = {
        **network(1).state_dict(),
        "half": torch.ones(3).bfloat16(),
        "nothing": torch.zeros(0),
        "one": torch.tensor(4),
    }
    export_weights(tmp_path / "shared.safetensors", state, "INPUT: {CROP_SIZE: 32}\n")
    return tmp_path / "shared.safetensors"


def test_a_shared_file_is_read_as_it_was_written(shared: Path) -> None:
    state = read_checkpoint(shared)
    assert {name: (value.tolist(), value.dtype) for name, value in state.items()} == {
        "weight": ([[1, 1]], torch.float32),
        "bias": ([1], torch.float32),
        "half": ([1, 1, 1], torch.bfloat16),
        "nothing": ([], torch.float32),
        "one": (4, torch.int64),
    }
    assert read_metadata(shared)["prompt_das.config"] == "INPUT: {CROP_SIZE: 32}\n"


def test_a_shared_file_is_as_readable_as_any_other(shared: Path, tmp_path: Path) -> None:
    """safetensors itself would write it for its owner alone."""
    (tmp_path / "any").touch()
    assert shared.stat().st_mode == (tmp_path / "any").stat().st_mode


def test_a_flipped_bit_of_a_shared_file_is_refused_or_harmless(shared: Path) -> None:
    """One bit of each byte: names, config and values. Safetensors has no checksum of its own."""
    content, good = shared.read_bytes(), (read_checkpoint(shared), read_metadata(shared))
    for byte in range(len(content)):
        damaged = bytearray(content)
        damaged[byte] ^= 1 << (byte % 8)
        shared.write_bytes(damaged)
        try:
            read = read_checkpoint(shared), read_metadata(shared)
        except ValueError as e:
            assert shared.name in str(e)  # noqa: PT017
        else:
            assert str(read) == str(good)


def test_a_config_that_was_changed_by_hand_is_noticed(shared: Path) -> None:
    shared.write_bytes(shared.read_bytes().replace(b"CROP_SIZE: 32", b"CROP_SIZE: 64"))
    with pytest.raises(DamagedCheckpointError, match=r"shared\.safetensors .*its checksum is wrong"):
        read_checkpoint(shared)


def test_files_of_others_have_no_checksum_and_load(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    for metadata in (None, {"format": "pt"}, {"format": "pt", "prompt_das.config": "a release without checksums"}):
        save_file(network(3).state_dict(), path, metadata)
        assert read_checkpoint(path)["weight"].tolist() == [[3, 3]]


# ---- weights that would do harm


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.tensor([float("nan")]), "bias holds values that are NaN or infinite"),
        (torch.zeros(1).expand(10**13), r"bias claims the shape \(10000000000000,\)"),
        (torch.zeros(1).to_sparse(), "bias is not an ordinary tensor"),
        (torch.zeros(1, device="meta"), "bias is not an ordinary tensor"),
        (
            torch.zeros(1, dtype=torch.long),
            r"of another type \(file, network\): bias torch.int64, floating point",
        ),
        (3.0, "'bias' is a float; weights are tensors"),
    ],
)
def test_weights_that_are_no_ordinary_finite_tensors(tmp_path: Path, value: Any, message: str) -> None:
    torch.save({**network(0).state_dict(), "bias": value}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=rf"w\.pth: .*{message}"):
        PromptDASCheckpointer(network(0)).load(str(tmp_path / "w.pth"), checkpointables=[])


def test_a_compressed_archive_is_refused_before_it_fills_the_memory(saved: Path) -> None:
    with zipfile.ZipFile(saved) as whole:
        records = {record.filename: whole.read(record) for record in whole.infolist()}
    with zipfile.ZipFile(saved, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in records.items():
            packed.writestr(name, content)
    with pytest.raises(DamagedCheckpointError, match="its records are compressed"):
        read_checkpoint(saved)


def test_plain_weights_are_no_run_to_resume(tmp_path: Path) -> None:
    torch.save(network(3).state_dict(), tmp_path / "model_0000001.pth")
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    run = PromptDASCheckpointer(network(0), str(tmp_path), teacher=network(0), trainer=State())
    with pytest.raises(ValueError, match=r"0000001\.pth has no teacher and no trainer: it is no run to resume"):
        run.resume_or_load("", resume=True)


def test_the_state_of_another_run_names_the_file(saved: Path) -> None:
    run = PromptDASCheckpointer(network(0), str(saved.parent), teacher=network(0, size=5))
    with pytest.raises(ValueError, match=r"0000007\.pth does not hold the state of such a run: RuntimeError: Error"):
        run.resume_or_load("", resume=True)
