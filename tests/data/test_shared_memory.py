"""Loader workers where shared memory is small or full, as in a container: they go on without it, or the run ends."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECONDS = 120  # with imports, on a busy machine; a hang lasts for ever
MOUNT = 'mount -t tmpfs -o size=4m tmpfs /dev/shm && exec "$@"'
IN_SMALL_SHARED_MEMORY = ["unshare", "--mount", "sh", "-c", MOUNT, "sh"]
PROGRAM = """
import sys, torch
from prompt_das.data import workers
from torch.utils.data import DataLoader

class Images(torch.utils.data.Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, n):
        return {"image": torch.full((2 << 20,), float(n))}  # 8 MB

workers.MIN_SHARED_MEMORY = int(sys.argv[1])
loader = workers.MonitoredDataLoader(DataLoader(Images(), num_workers=2, batch_size=1, collate_fn=list))
print([batch[0]["image"].mean().item() for batch in loader])
"""


def possible() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*IN_SMALL_SHARED_MEMORY, "true"], capture_output=True).returncode == 0


def load(min_shared_memory: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*IN_SMALL_SHARED_MEMORY, sys.executable, "-c", PROGRAM, str(min_shared_memory)],
        **{"cwd": ROOT, "capture_output": True, "text": True, "timeout": SECONDS},
    )


pytestmark = pytest.mark.skipif(not possible(), reason="needs the right to mount a small /dev/shm of its own")


def test_small_shared_memory_is_not_used() -> None:
    result = load(1 << 30)
    assert result.stdout.strip() == "[0.0, 1.0, 2.0, 3.0]", result.stderr


def test_full_shared_memory_ends_the_run_and_is_named() -> None:
    result = load(0)
    assert result.returncode == 1
    for text in ("could not send its batch", "/dev/shm has", "--ipc=host", "DATALOADER.NUM_WORKERS", "--resume"):
        assert text in result.stderr
