"""Nothing here talks to a machine that the user has not named: training, evaluation, prediction without a network."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prompt_das.cli.train import run_process
from prompt_das_cli import build_parser, main

import pytest

pytestmark = pytest.mark.usefixtures("quiet_logging", "forget_new_names")

CONFIG = Path(__file__).parents[2] / "configs" / "quick" / "synthetic_uda.yaml"


class NetworkError(Exception):
    """Not an OSError, which a library might catch to go on without a network."""


def is_local(host: Any) -> bool:
    try:
        return host in (None, "", "localhost") or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's sockets reach this machine only, and no name is looked up."""

    def guarded(ordinary: Callable) -> Callable:
        def call(self: socket.socket, address: Any) -> Any:
            if self.family != socket.AF_UNIX and not (address[0] and is_local(address[0])):
                raise NetworkError(f"{ordinary.__name__} {address}")
            return ordinary(self, address)

        return call

    for name in ("connect", "connect_ex", "bind"):  # bind: what listens on all interfaces can be reached from outside
        monkeypatch.setattr(socket.socket, name, guarded(getattr(socket.socket, name)))
    look_up = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        if not is_local(host):
            raise NetworkError(f"getaddrinfo {host}")
        return look_up(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.mark.usefixtures("no_network")
def test_the_guard_refuses_connections_and_names() -> None:
    with pytest.raises(NetworkError), socket.socket() as s:
        s.connect(("192.0.2.1", 80))  # an address of documentation
    with pytest.raises(NetworkError), socket.socket() as s:
        s.bind(("", 0))
    with pytest.raises(NetworkError):
        socket.create_connection(("host.invalid", 80))
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))


@pytest.mark.long
@pytest.mark.usefixtures("no_network", "quick_setup", "synthetic_data")
def test_training_evaluation_and_prediction(
    tiny: list[str],
    synthetic_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Prediction on a local Dask cluster, whose scheduler and pages are for this machine only."""
    changes = {"OUTPUT_DIR": tmp_path, "SOLVER.MAX_ITER": 4, "DOMAIN_ADAPT.BURN_IN_ITERS": 2, "DATASETS.VAL": "()"}
    changes |= {"SOLVER.IMS_PER_BATCH": 2, "DATALOADER.TARGET_IMS_PER_BATCH": 2}
    words = [*tiny, *(str(word) for pair in changes.items() for word in pair)]
    train, weights = run_process, tmp_path / "model_final.pth"
    parse = build_parser().parse_args
    assert train(parse(["train", "--config-file", str(CONFIG), *words]))
    assert train(parse(["train", "--config-file", str(CONFIG), "--eval-only", *words, "MODEL.WEIGHTS", str(weights)]))

    volume, output = synthetic_root / "synthetic" / "target" / "im", tmp_path / "instances.tif"
    main(
        [
            "predict",
            "--weights",
            str(weights),
            "--input",
            str(volume),
            "--output",
            str(output),
            "--dask",
            "--workers",
            "1",
        ]
    )
    assert output.exists()
