"""What all tests share. prompt_das comes first: an old Detectron2 cannot be imported before it."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import prompt_das
from prompt_das.checkpoint.safe_load import read_checkpoint
from prompt_das.data import datasets
from prompt_das_cli import main

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from hypothesis import settings

assert prompt_das.__version__
torch.set_num_threads(1)  # the tests share the cores with each other
settings.register_profile("prompt_das", deadline=None, derandomize=True)  # the same examples on every run
settings.load_profile("prompt_das")


def pytest_configure(config: pytest.Config) -> None:
    """Tests give the same on every machine: they see a GPU only where they are chosen for it, by `make test-gpu`."""
    if "gpu" not in config.option.markexpr:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device: make test-gpu")


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    torch.manual_seed(0)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Root of the real data sets, as datasets/README.md lays them out; tests that ask for it skip without."""
    root = Path(os.environ.get("DETECTRON2_DATASETS", "datasets"))
    if not (root / "lucchi").is_dir():
        pytest.skip(f"no real data in {root}: set DETECTRON2_DATASETS")
    return root


@pytest.fixture(scope="session", autouse=True)
def _no_models_of_the_user() -> Iterator[None]:
    """The tests neither see nor change the models in the cache of whoever runs them."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("PROMPT_DAS_HOME", "/nonexistent")
        yield


def _skip_flush(descriptor: int) -> None:
    """In place of ``os.fsync``, which waits for the disk: no test takes the machine's power away."""


@pytest.fixture(scope="session", autouse=True)
def _no_flushing() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(os, "fsync", _skip_flush)
        yield


@pytest.fixture
def models_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty ``PROMPT_DAS_HOME``."""
    monkeypatch.setenv("PROMPT_DAS_HOME", str(tmp_path / "models_home"))
    (tmp_path / "models_home").mkdir()
    return tmp_path / "models_home"


# The smallest network that still has every part, on crops of 32 x 32 pixels: an iteration takes milliseconds.
TINY = {
    "MODEL.DEVICE": "cpu",
    "MODEL.VIT.EMBED_DIM": 32,
    "MODEL.VIT.DEPTH": 1,
    "MODEL.VIT.NUM_HEADS": 2,
    "MODEL.DECODER.NUM_HEADS": 2,
    "MODEL.DECODER.MLP_DIM": 32,
    "MODEL.CENTER_HEAD.CHANNELS": 8,
    "MODEL.CENTER_HEAD.SIGMA": 3.0,
    "INPUT.CROP_SIZE": 32,
    "DATALOADER.NUM_WORKERS": 0,
    "TEST.WINDOW.STRIDE": 32,
    "SEED": 0,
    "DOMAIN_ADAPT.USE_CONTRASTIVE": True,
    # Even an untrained teacher has pseudo-labels of every kind.
    "DOMAIN_ADAPT.POINTS.THRESHOLD": 0.05,
    "DOMAIN_ADAPT.POINTS.UDA_THRESHOLD": 0.05,
    "DOMAIN_ADAPT.MASKS.PIXEL_CONFIDENCE": 0.5,
    "DOMAIN_ADAPT.MASKS.IMAGE_CONFIDENCE": 0.5,
    "DOMAIN_ADAPT.CONTRASTIVE.FOREGROUND": 0.5,
    "DOMAIN_ADAPT.CONTRASTIVE.BACKGROUND": 0.5,
}


@pytest.fixture(scope="session")
def tiny() -> list[str]:
    """``TINY`` as it is written on a command line: KEY VALUE ..."""
    return [word for key, value in TINY.items() for word in (key, str(value))]


@pytest.fixture
def tiny_cfg(tiny: list[str], tmp_path: Path) -> CfgNode:
    """A config of the tiny network that a test may change; its ``OUTPUT_DIR`` is the test's own folder."""
    from prompt_das.config.load import get_prompt_das_cfg  # here: most tests need no engine

    cfg = get_prompt_das_cfg(None, [*tiny, "OUTPUT_DIR", str(tmp_path)])
    cfg.defrost()
    return cfg


@pytest.fixture
def emulated_bfloat16(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """``MODEL.PRECISION bfloat16`` is computed as such on every machine, however long it takes."""
    from prompt_das.modeling import precision

    monkeypatch.setattr(precision, "has_bfloat16", lambda device: True)
    precision.computed_precision.cache_clear()
    yield
    precision.computed_precision.cache_clear()


def _assert_same(a: Any, b: Any, where: str = "checkpoint") -> None:
    assert type(a) is type(b), f"{where}: {a!r:.200}, {b!r:.200}"
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a.keys() - {"config"}:  # of a checkpoint: it names the folder of its run
            _assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            _assert_same(x, y, f"{where}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b or (a != a and b != b), where  # nan is nan


@pytest.fixture(scope="session")
def assert_same() -> Callable[..., None]:
    """``assert_same(a, b, name)``: two checkpoints, but for their configs, or other results are equal to the bit."""
    return _assert_same


def _results_of(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    from prompt_das.engine.hooks.resume_state import TIMINGS

    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return (
        {name: read_checkpoint(folder / name) for name in ("model_final.pth", "model_best.pth")},
        [{name: value for name, value in line.items() if name not in TIMINGS} for line in lines],
    )


@pytest.fixture(scope="session")
def results_of() -> Callable[[Path], Any]:
    """``results_of(OUTPUT_DIR)``: everything that a run ends with, but how long it took."""
    return _results_of


def _hasten_setup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detectron2.engine.defaults.collect_env_info", lambda: "")
    key_of = "detectron2.engine.defaults._try_get_key"  # newer versions may not have it
    monkeypatch.setattr(key_of, lambda cfg, key, *_, default=None: cfg.get(key, default), raising=False)


@pytest.fixture
def quick_setup(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts a run without what takes Detectron2 longer than the run of a tiny network takes.

    That is to ask a dozen programs for their versions, and three times to write the config, read it and pick a key.
    """
    _hasten_setup(monkeypatch)


def _run(environment: dict[str, str], target: Callable, args: tuple) -> None:
    os.environ.clear()
    os.environ.update(environment)  # the fork server has that of the first test
    _hasten_setup(pytest.MonkeyPatch())
    pytest.MonkeyPatch().setattr(os, "fsync", _skip_flush)
    multiprocessing.set_start_method("fork", force=True)  # as it is where no fork server is
    target(*args)


def _run_rank(rank: int, environment: dict[str, str], target: Callable, args: tuple) -> None:
    _run(environment, target, (rank, *args))


def _spawn(target: Callable, args: tuple, nprocs: int) -> None:
    torch.multiprocessing.start_processes(
        _run_rank, (dict(os.environ), target, args), nprocs, start_method="forkserver"
    )


@pytest.fixture(scope="session")
def _fork_server() -> Any:
    """New processes are those that ``spawn`` would start, but with what takes seconds to import imported already."""
    context = multiprocessing.get_context("forkserver")
    modules = ["engine", "inference.volume", "cli.main", "cli.train"]
    context.set_forkserver_preload([*(f"prompt_das.{name}" for name in modules), __name__])
    return context


@pytest.fixture(scope="session")
def start_process(_fork_server: Any) -> Callable[..., Any]:
    """``start_process(target, *args)``: runs in a process of its own."""

    def start(target: Callable, *args: Any, daemon: bool = False) -> Any:
        process = _fork_server.Process(target=_run, args=(dict(os.environ), target, args), daemon=daemon)
        process.start()
        return process

    return start


@pytest.fixture
def quick_launch(_fork_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes of :func:`prompt_das.engine.launch.launch` come from the fork server."""
    monkeypatch.setattr(torch.multiprocessing, "spawn", _spawn)


@pytest.fixture(scope="session")
def synthetic_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two synthetic domains of 6 slices, 4 to train and 2 to validate, 96 x 96 pixels each, none of them empty."""
    root = tmp_path_factory.mktemp("data")
    main(["make-synthetic", "--output", str(root), "--size", "96", "--slices", "6"])
    return root


@pytest.fixture
def synthetic_data(synthetic_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data sets ``synthetic_{source,target}_{train,val}``."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(synthetic_root))
    return synthetic_root


@pytest.fixture
def spoil(synthetic_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """``spoil("source/im/im0001.png")`` cuts off a file, in a copy of the synthetic data that the test then uses."""
    root = tmp_path / "data"
    shutil.copytree(synthetic_data, root)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))

    def spoil(name: str) -> Path:
        path = root / "synthetic" / name
        path.write_bytes(path.read_bytes()[:100])
        return path

    return spoil


@pytest.fixture
def forget_new_names() -> Iterator[None]:
    """Takes back the data sets that a test registers."""
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        datasets.unregister(name)


@pytest.fixture
def quiet_logging() -> Iterator[None]:
    """Takes back what Detectron2's ``setup_logger`` does to the process, so that ``caplog`` works in the next test."""
    loggers = [logging.getLogger(name) for name in ("prompt_das", "detectron2", "fvcore")]
    before = [(list(logger.handlers), logger.propagate, logger.level) for logger in loggers]
    yield
    for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
        for handler in set(logger.handlers) - set(handlers):
            handler.close()
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


def _cut(content: bytearray, rng: random.Random) -> None:
    del content[rng.choice([rng.randrange(len(content)), -rng.randrange(1, 9)]) :]


def _flip(content: bytearray, rng: random.Random) -> None:
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def _flip_in_header(content: bytearray, rng: random.Random) -> None:
    content[rng.randrange(min(len(content), 512))] ^= 1 << rng.randrange(8)


def _overwrite(content: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(content))
    stop = min(len(content), start + rng.randrange(1, 64))
    content[start:stop] = rng.choice([rng.randbytes, bytes])(stop - start)


def _insert(content: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(content))
    content[start:start] = rng.randbytes(rng.randrange(1, 9))


@pytest.fixture(scope="session")
def damages() -> dict[str, Callable[[bytearray, random.Random], None]]:
    """What happens to files: each changes a content in place, somewhere."""
    return {
        "cut": _cut,
        "flip": _flip,
        "flip_in_header": _flip_in_header,
        "overwrite": _overwrite,
        "insert": _insert,
    }
