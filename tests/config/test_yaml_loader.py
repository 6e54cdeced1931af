"""YAML of strangers: plain data in bounded time and memory, with the bases of a config."""

from __future__ import annotations

from pathlib import Path

from prompt_das.config.yaml_loader import parse_yaml, read_config_file, read_yaml

import pytest
import yaml


def test_plain_values_aliases_and_merged_keys_are_read_as_by_pyyaml() -> None:
    text = "a: &a {x: 1, y: [1.5, true, null, word]}\nb: {<<: *a, x: 2}\nc: *a\n"
    assert (
        parse_yaml(text, "t")
        == yaml.safe_load(text)
        == {**yaml.safe_load(text), "b": {"x": 2, "y": [1.5, True, None, "word"]}}
    )
    assert parse_yaml("", "t") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "the key 'a' comes twice, again in line 3"),
        ("a: &a [*a]\n", "line 1 contains itself"),
        ("a: !!python/name:os.system\n", "could not determine a constructor"),
        ("a: 1" + ":1" * 100_000, "a value of 200001 characters in line 1"),
        ("".join("- " for _ in range(30)) + "a", "too many for a config"),
        ("[" * 10_000, "nested too deeply"),
        ("a: !!int x", "t is not valid YAML"),
        ("a: [1", "t is not valid YAML"),
        ("#" * 300_000, "300000 characters"),
    ],
)
def test_what_is_refused_is_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_yaml(text, "t")


def test_ten_lines_that_stand_for_ten_thousand_million_values() -> None:
    lines = ["x0: &x0 [ha, ha]", *(f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 10)}]" for i in range(1, 10))]
    with pytest.raises(ValueError, match=r"line \d+ stands for \d+ values"):
        parse_yaml("\n".join(lines), "t")


def test_a_config_with_two_bases(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "first.yaml").write_text("S: {x: 1, y: 1}\nT: 1\n")
    (tmp_path / "second.yaml").write_text("_BASE_: a/first.yaml\nS: {y: 2, z: 2}\n")
    (tmp_path / "leaf.yaml").write_text("_BASE_: [a/first.yaml, second.yaml]\nS: {z: 3}\n")
    assert read_config_file(tmp_path / "leaf.yaml") == {"S": {"x": 1, "y": 2, "z": 3}, "T": 1}


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("leaf.yaml", "leads back to itself"),
        ("http://host/base.yaml", "not the path of a file on this machine"),
        ("detectron2://base.yaml", "not the path of a file on this machine"),
        ("[3]", "_BASE_ 3 is not the path"),
    ],
)
def test_bases_that_are_refused(tmp_path: Path, base: str, message: str) -> None:
    (tmp_path / "leaf.yaml").write_text(f"_BASE_: {base}\n")
    with pytest.raises(ValueError, match=rf"leaf\.yaml.*{message}"):
        read_config_file(tmp_path / "leaf.yaml")


def test_a_base_that_is_missing_names_both_files(tmp_path: Path) -> None:
    (tmp_path / "leaf.yaml").write_text("_BASE_: nowhere.yaml\n")
    with pytest.raises(FileNotFoundError, match=r"leaf\.yaml: its _BASE_ .*nowhere\.yaml does not exist"):
        read_config_file(tmp_path / "leaf.yaml")


def test_a_section_cannot_take_the_place_of_a_value_of_the_base(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("S: 1\n")
    (tmp_path / "leaf.yaml").write_text("_BASE_: base.yaml\nS: {x: 1}\n")
    with pytest.raises(ValueError, match="S is a section here and a value in its _BASE_"):
        read_config_file(tmp_path / "leaf.yaml")


def test_bases_that_multiply_are_bounded(tmp_path: Path) -> None:
    for i in range(10):
        (tmp_path / f"{i}.yaml").write_text(f"_BASE_: [{i + 1}.yaml, {i + 1}.yaml]\n")
    (tmp_path / "10.yaml").write_text("S: 1\n")
    with pytest.raises(ValueError, match="more than 20 files"):
        read_config_file(tmp_path / "0.yaml")


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_yaml(tmp_path / "nowhere.yaml")
    with pytest.raises(FileNotFoundError, match="not a file"):
        read_yaml("/dev/zero")
    (tmp_path / "large.yaml").write_bytes(bytes(1 << 20))
    with pytest.raises(ValueError, match="1048576 bytes, too many"):
        read_yaml(tmp_path / "large.yaml")
