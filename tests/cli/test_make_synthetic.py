"""The command line: two domains in MitoEM's layout, found under their registered names."""

from __future__ import annotations

from pathlib import Path

from prompt_das.data.slices import read_image, read_labels
from prompt_das.volumes.synthetic import make_synthetic_volume
from prompt_das_cli import main

import numpy as np
import pytest
from detectron2.data import DatasetCatalog


def test_what_is_written_is_what_the_names_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    stale = tmp_path / "synthetic/target/im/im0006.png"  # of an earlier call with more slices
    stale.parent.mkdir(parents=True)
    stale.touch()
    main(["make-synthetic", "--output", str(tmp_path), "--size", "64", "--slices", "6", "--seed", "5"])
    for domain in ("source", "target"):
        images, labels = make_synthetic_volume((6, 64, 64), domain, 5)
        train, val = (DatasetCatalog.get(f"synthetic_{domain}_{split}") for split in ("train", "val"))
        assert [entry["slice"] for entry in train + val] == list(range(6))
        assert len(val) == 2
        for entry in train + val:
            np.testing.assert_array_equal(read_image(entry), images[entry["slice"]])
            np.testing.assert_array_equal(read_labels(entry), labels[entry["slice"]])
    assert not stale.exists()


def test_a_size_that_is_too_small(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="--size must be at least 64"):
        main(["make-synthetic", "--output", str(tmp_path), "--size", "32"])
