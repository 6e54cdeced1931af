"""`prompt-das models`: the weights that have a name, where they are, and how they get there."""

from __future__ import annotations

from pathlib import Path

from prompt_das.checkpoint.safe_load import export_weights
from prompt_das_cli import main

import pytest
import torch


@pytest.fixture(autouse=True)
def _nothing_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prompt_das.checkpoint.model_zoo.PACKAGE", tmp_path / "package")


def listed(capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    """The rows of the table, cell by cell."""
    main(["models"])
    rows = capsys.readouterr().out.split("\n\n")[0].splitlines()[2:]
    return [[cell for cell in row.split("  ") if cell] for row in rows]


def test_the_table_says_where_each_model_is(models_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine, package = models_home / "mine.safetensors", models_home.parent / "package"
    package.mkdir()
    for path in (mine, package / "em.safetensors"):
        export_weights(path, {"weight": torch.zeros(50_000)}, "INPUT: {PIXEL_SIZE: 12.5}\n")
    (package / "models.yaml").write_text("em: {file: em.safetensors, pixel_size: 16, description: any EM volume}")
    (models_home / "broken.safetensors").write_bytes(b"hello")
    (models_home / "models.yaml").write_text(f"far: {{url: 'https://example.org/x', sha256: '{'0' * 64}'}}")
    rows = [[cell.strip() for cell in row] for row in listed(capsys)]
    assert rows == [
        ["broken", str(models_home / "broken.safetensors"), "0.0", "damaged, or no weights"],
        ["em", "package", "0.2", "16", "any EM volume"],
        ["far", "not downloaded"],
        ["mine", str(mine), "0.2", "12.5"],
    ]


def test_without_any_it_says_how_to_have_some(models_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["models"])
    assert capsys.readouterr().out == (f"There are no models yet.\n\nYours: put NAME.safetensors into {models_home}\n")


def test_errors_are_one_line(models_home: Path) -> None:
    with pytest.raises(SystemExit, match=r"^error: there is no model 'far'"):
        main(["models", "--download", "far"])
    (models_home / "models.yaml").write_text("em: 3")
    with pytest.raises(SystemExit, match=r"^error: .*models\.yaml: em needs"):
        main(["models"])
