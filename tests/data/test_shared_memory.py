"""Loader workers where shared memory is small or full, as in a container: they go on without it, or the run ends."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prompt_das.checkpoint.safe_load import read_checkpoint

import pytest

ROOT = Path(__file__).parents[2]
SECONDS = 120  # with imports, on a busy machine; a hang lasts for ever
MOUNT = 'mount -t tmpfs -o size=4m tmpfs /dev/shm && exec "$@"'
IN_SMALL_SHARED_MEMORY = ["unshare", "--mount", "sh", "-c", MOUNT, "sh"]
PROGRAM = """
import torch
from prompt_das.data import workers
from torch.utils.data import DataLoader

class Images(torch.utils.data.Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, n):
        return {"image": torch.full((2 << 20,), float(n))}  # 8 MB

for workers.MIN_SHARED_MEMORY in (1 << 30, 0):
    loader = workers.MonitoredDataLoader(DataLoader(Images(), num_workers=2, batch_size=1, collate_fn=list))
    print([batch[0]["image"].mean().item() for batch in loader], flush=True)
"""


def possible() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*IN_SMALL_SHARED_MEMORY, "true"], capture_output=True).returncode == 0


pytestmark = pytest.mark.skipif(not possible(), reason="needs the right to mount a small /dev/shm of its own")


@pytest.mark.long
def test_small_shared_memory_is_not_used_and_one_that_is_full_ends_the_run_and_is_named() -> None:
    """It counts as small below ``MIN_SHARED_MEMORY``: first all is, then nothing."""
    result = subprocess.run(
        [*IN_SMALL_SHARED_MEMORY, sys.executable, "-c", PROGRAM],
        **{"cwd": ROOT, "capture_output": True, "text": True, "timeout": SECONDS},
    )
    assert result.stdout.strip() == "[0.0, 1.0, 2.0, 3.0]", result.stderr
    assert result.returncode == 1
    for text in ("could not send its batch", "/dev/shm has", "--ipc=host", "DATALOADER.NUM_WORKERS", "--resume"):
        assert text in result.stderr


# Crops of 96 x 96 pixels in batches of 32: a batch alone fills 4 MB, and each worker is two batches ahead.
TRAINING = {
    "INPUT.CROP_SIZE": 96,
    "INPUT.SCALE": 1.0,
    "MODEL.PRECISION": "float32",
    "SOLVER.IMS_PER_BATCH": 32,
    "SOLVER.MAX_ITER": 4,
    "SOLVER.WARMUP_ITERS": 1,
    "SOLVER.CHECKPOINT_PERIOD": 2,
    "DATALOADER.TARGET_IMS_PER_BATCH": 32,
    "DATALOADER.NUM_WORKERS": 2,
    "DATASETS.VAL": "()",
    "DATASETS.TEST": "()",
    "DOMAIN_ADAPT.BURN_IN_ITERS": 2,
    "VIS_PERIOD": 0,
}


@pytest.mark.slow
@pytest.mark.usefixtures("synthetic_data")
def test_a_training_in_small_shared_memory_is_the_same_training(
    tiny: list[str], tmp_path: Path, assert_same: Callable[..., None]
) -> None:
    words = [*tiny, *(str(word) for pair in TRAINING.items() for word in pair)]
    weights: list[Any] = []
    for name, place in (("small", IN_SMALL_SHARED_MEMORY), ("large", [])):
        program = [sys.executable, "-m", "prompt_das_cli", "train", "--config-file", "quick/synthetic_wda"]
        result = subprocess.run(
            [*place, *program, *words, "OUTPUT_DIR", str(tmp_path / name)],
            **{"cwd": ROOT, "capture_output": True, "text": True, "timeout": 10 * SECONDS},
        )
        assert result.returncode == 0, result.stderr
        weights.append(read_checkpoint(tmp_path / name / "model_final.pth"))
    assert_same(*weights)
