"""Weights by name: from the package, the user's folder, or a URL, and never another file than it should be."""

from __future__ import annotations

import fcntl
import hashlib
import re
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

from prompt_das import model_zoo
from prompt_das.checkpoint import model_zoo as zoo
from prompt_das.checkpoint.checkpointer import PromptDASCheckpointer
from prompt_das.checkpoint.float16 import to_float16
from prompt_das.checkpoint.model_zoo import (
    download_model,
    find_weights,
    list_models,
    models_folder,
    read_pixel_size,
    settings_of,
)
from prompt_das.checkpoint.safe_load import export_weights, read_checkpoint

import pytest
import torch
from torch import nn

STATE = {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}


@pytest.fixture
def home(models_home: Path) -> Path:
    """The user's folder of models, empty."""
    return models_home


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that ships nothing yet."""
    monkeypatch.setattr(zoo, "PACKAGE", tmp_path / "package")
    (tmp_path / "package").mkdir()
    return tmp_path / "package"


def write(path: Path, config: str = "VERSION: 2\n") -> str:
    """Write weights of a network -> SHA-256 of the file."""
    export_weights(path, STATE, config)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def describe(folder: Path, text: str) -> None:
    (folder / "models.yaml").write_text(text)


# ---- finding


def test_a_file_in_the_users_folder_has_the_name_that_it_is_called(home: Path, package: Path) -> None:
    write(home / "my-lab.safetensors")
    assert find_weights("my-lab") == home / "my-lab.safetensors"
    assert [(model.name, model.place) for model in list_models().values()] == [("my-lab", "home")]


def test_a_model_of_the_package_is_found_and_compared(home: Path, package: Path) -> None:
    digest = write(package / "em.safetensors")
    describe(package, f"em: {{file: em.safetensors, sha256: '{digest}', pixel_size: 16, card: em.md}}")
    assert find_weights("em") == package / "em.safetensors"
    model = list_models()["em"]
    assert (model.place, model.pixel_size, model.card) == ("package", 16.0, package / "em.md")
    (package / "em.safetensors").write_bytes(b"something else")
    with pytest.raises(ValueError, match=rf"em\.safetensors is not the file that em should be: .*, not {digest}; inst"):
        find_weights("em")


def test_settings_of_an_entry_belong_to_its_file_alone(home: Path, package: Path) -> None:
    write(package / "em.safetensors")
    write(home / "other.safetensors")
    describe(package, "em: {file: em.safetensors, settings: {TEST.MIN_CONFIDENCE: 0.975, TEST.PROTOCOLS: ['paper']}}")
    given = ["TEST.MIN_CONFIDENCE", "0.975", "TEST.PROTOCOLS", "['paper']"]
    assert settings_of(package / "em.safetensors") == given
    assert settings_of(home / "other.safetensors") == []
    assert settings_of(home / "missing.safetensors") == []


def test_an_entry_without_its_file_does_not_count(home: Path, package: Path) -> None:
    describe(package, f"em: {{file: em.safetensors, sha256: '{'0' * 64}'}}")
    assert list_models() == {}
    with pytest.raises(FileNotFoundError, match="neither a file nor the name of a model; there are no models here"):
        find_weights("em")


def test_the_models_of_the_package_match_their_entries() -> None:
    """However many models that are."""
    for model in zoo._read_registry(zoo.PACKAGE, "package").values():
        if model.file.is_file():
            assert find_weights(model.name).stat().st_size <= 10e6
            assert model.sha256
            assert model.card is not None
            assert model.card.is_file()


def test_a_path_wins_over_a_name(home: Path, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home / "em.safetensors")
    monkeypatch.chdir(tmp_path)
    Path("em").mkdir()  # of a run, for example: no weights
    assert find_weights("em") == home / "em.safetensors"
    Path("em").rmdir()
    Path("em").write_bytes(b"weights")
    assert find_weights("em") == Path("em")


def test_the_users_own_come_before_the_packages(home: Path, package: Path) -> None:
    for folder in (package, home):
        write(folder / "em.safetensors")
    describe(package, "em: {file: em.safetensors}")
    assert find_weights("em").parent == home
    write(home / "other" / "third.safetensors")
    describe(home, "em: {file: other/third.safetensors}")
    assert find_weights("em") == home / "other" / "third.safetensors"


def test_an_unknown_name_lists_those_that_are_known(home: Path, package: Path) -> None:
    write(home / "liver.safetensors")
    write(home / "brain.safetensors")
    with pytest.raises(FileNotFoundError, match=r"no weights at livr: .*known models are brain, liver, .*have a path"):
        find_weights("livr")


@pytest.mark.parametrize("path", ["absent.pth", "output/em", "em.safetensors", "../em", "", "a b"])
def test_a_path_that_is_not_there_is_no_name(home: Path, package: Path, path: str) -> None:
    write(home / "em.safetensors")
    with pytest.raises(FileNotFoundError, match=rf"no weights at {re.escape(path)}; check MODEL.WEIGHTS"):
        find_weights(path)


def test_the_folder_is_the_users_cache_unless_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROMPT_DAS_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert models_folder() == Path("/somewhere/prompt_das")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/x")
    assert models_folder() == Path("/home/x/.cache/prompt_das")


def test_the_pixel_size_is_that_of_the_entry_or_of_the_config_inside(home: Path, package: Path) -> None:
    write(home / "a.safetensors", "INPUT: {PIXEL_SIZE: 12.5}\n")
    write(home / "b.safetensors")
    describe(home, "a2: {file: a.safetensors, pixel_size: 8}")
    assert {name: read_pixel_size(model) for name, model in list_models().items()} == {"a": 12.5, "a2": 8, "b": None}


def test_the_public_address() -> None:
    assert model_zoo.find_weights is find_weights


# ---- damaged and hostile


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "not as a list"),
        ("em: 3", "em needs either `file: PATH` or `url"),
        ("em: {}", "em needs either"),
        ("em: {file: a, url: 'https://a'}", "em needs either"),
        ("em: {file: 3}", "file of em is 3"),
        ('em: {file: "a\\0b"}', "file of em is"),
        ("em: {file: a, sha: x}", "em has sha; an entry may have"),
        ("em: {file: a, settings: [0.9]}", "settings of em are [0.9]; write them as `{KEY: VALUE}`"),
        ("em: {url: 'https://a'}", "em needs `sha256:`"),
        ("em: {file: a, sha256: abc}", "em needs `sha256:`"),
        (f"em: {{url: 'file:///etc/passwd', sha256: '{'0' * 64}'}}", "url of em is 'file:///etc/passwd'"),
        ("em: {file: a, pixel_size: -1}", "pixel_size of em is -1"),
        ("em: {file: a, pixel_size: .inf}", "pixel_size of em is inf"),
        ("../em: {file: a}", "'../em' is no name"),
        ("em.pth: {file: a}", "'em.pth' is no name"),
        ("7: {file: a}", "7 is no name"),
        ("em: !!python/object/apply:os.system [touch canary]", "python/object/apply"),
    ],
)
def test_a_registry_that_makes_no_sense_is_named(home: Path, package: Path, text: str, message: str) -> None:
    describe(home, text)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        find_weights("em")
    assert str(home / "models.yaml") in str(error.value)


def test_a_damaged_registry_does_not_keep_a_path_from_working(home: Path, package: Path, tmp_path: Path) -> None:
    describe(home, "[")
    write(tmp_path / "mine.safetensors")
    assert find_weights(tmp_path / "mine.safetensors") == tmp_path / "mine.safetensors"


@pytest.mark.parametrize("content", [b"", b"hello", (1 << 60).to_bytes(8, "little"), b"cut"])
def test_a_hostile_file_is_refused_by_name(home: Path, package: Path, content: bytes) -> None:
    """Its header claims 2 ** 60 bytes, or it was cut off."""
    write(home / "em.safetensors")
    whole = (home / "em.safetensors").read_bytes()
    (home / "em.safetensors").write_bytes(whole[:-10] if content == b"cut" else content)
    with pytest.raises(ValueError, match=r"em\.safetensors is not a readable"):
        PromptDASCheckpointer(nn.Linear(3, 2)).load("em", checkpointables=[])


# ---- downloads


class _Server(BaseHTTPRequestHandler):
    """Serves ``content``, from a byte on if it is asked to; notes the ranges, and can break off."""

    content: ClassVar[bytes] = b""
    ranges: ClassVar[list[str | None]] = []
    break_after: ClassVar[int | None] = None

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        type(self).ranges.append(asked)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if start >= len(self.content):
            self.send_error(416)
            return
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(self.content) - start))
        self.end_headers()
        self.wfile.write(self.content[start : self.break_after])

    def log_message(self, *args: Any) -> None:
        """Be quiet."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[type[_Server], str, str]]:
    """A server with the weights of a model: its handler, the URL, the SHA-256."""
    handler = type("Server", (_Server,), {"ranges": []})
    digest = write(tmp_path / "origin.safetensors")
    handler.content = (tmp_path / "origin.safetensors").read_bytes()
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=partial(http.serve_forever, poll_interval=0.01))
    thread.start()
    yield handler, f"http://127.0.0.1:{http.server_port}/em.safetensors", digest
    http.shutdown()
    thread.join()
    http.server_close()


def test_nothing_is_downloaded_unasked_and_all_works_offline_afterwards(
    home: Path, package: Path, server: tuple[type[_Server], str, str]
) -> None:
    handler, url, digest = server
    describe(home, f"em: {{url: '{url}', sha256: {digest}}}")
    with pytest.raises(FileNotFoundError, match=r"not on this machine.*prompt-das models --download em"):
        find_weights("em")
    assert list_models()["em"].place == "url"
    assert handler.ranges == []

    reports: list[tuple[int, int]] = []
    file = download_model("em", lambda *report: reports.append(report))
    assert (file, reports[-1]) == (home / "em.safetensors", (len(handler.content), len(handler.content)))
    assert find_weights("em") == file
    assert download_model("em") == file
    assert handler.ranges == [None]
    assert not list(home.glob("*.part"))


def test_what_the_package_has_a_url_of_is_downloaded_into_the_users_folder(
    home: Path, package: Path, server: tuple[type[_Server], str, str]
) -> None:
    """Which is made if it is not there; and a file of its name there is compared."""
    _, url, digest = server
    describe(package, f"em: {{url: '{url}', sha256: {digest}}}")
    home.rmdir()
    assert download_model("em") == home / "em.safetensors"
    assert find_weights("em") == home / "em.safetensors"
    (home / "em.safetensors").write_bytes(b"something else")
    with pytest.raises(ValueError, match="is not the file that em should be"):
        find_weights("em")


def test_an_interrupted_download_is_continued(
    home: Path, package: Path, server: tuple[type[_Server], str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, url, digest = server
    describe(home, f"em: {{url: '{url}', sha256: {digest}}}")
    monkeypatch.setattr(zoo, "CHUNK", 50)  # what arrives is written so many bytes at a time
    handler.break_after = 120
    with pytest.raises(OSError, match=r"could not be downloaded: .*The same command goes on where it was"):
        download_model("em")
    assert not (home / "em.safetensors").exists()
    handler.break_after = None
    assert download_model("em").read_bytes() == handler.content
    assert handler.ranges == [None, "bytes=100-"]


def test_a_damaged_file_is_downloaded_again(home: Path, package: Path, server: tuple[type[_Server], str, str]) -> None:
    handler, url, digest = server
    describe(home, f"em: {{url: '{url}', sha256: {digest}}}")
    damaged = bytearray(download_model("em").read_bytes())
    damaged[-1] ^= 1
    (home / "em.safetensors").write_bytes(damaged)
    with pytest.raises(ValueError, match="fetch it again: prompt-das models --download em"):
        find_weights("em")
    assert download_model("em").read_bytes() == handler.content


def test_two_downloads_at_once_do_not_mix(home: Path, package: Path, server: tuple[type[_Server], str, str]) -> None:
    handler, url, digest = server
    describe(home, f"em: {{url: '{url}', sha256: {digest}}}")
    with open(home / "em.safetensors.part", "ab") as part:
        part.write(handler.content[:100])
        part.flush()
        fcntl.flock(part, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="another process downloads em"):
            download_model("em")
    assert (home / "em.safetensors.part").read_bytes() == handler.content[:100]
    assert download_model("em").read_bytes() == handler.content


def test_a_download_of_which_only_the_name_was_missing(
    home: Path, package: Path, server: tuple[type[_Server], str, str]
) -> None:
    handler, url, digest = server
    describe(home, f"em: {{url: '{url}', sha256: {digest}}}")
    (home / "em.safetensors.part").write_bytes(handler.content)
    assert download_model("em").read_bytes() == handler.content


def test_another_file_than_it_should_be_is_refused(
    home: Path, package: Path, server: tuple[type[_Server], str, str]
) -> None:
    _, url, digest = server
    wrong = "0" * 64
    describe(home, f"em: {{url: '{url}', sha256: '{wrong}'}}")
    with pytest.raises(ValueError, match=rf"is not the file that em should be: .*{digest}"):
        download_model("em")
    assert sorted(path.name for path in home.iterdir()) == ["models.yaml"]
    write(home / "em.safetensors")  # of a release before
    with pytest.raises(ValueError, match=rf"SHA-256 is \w+, not {wrong}; fetch it again: prompt-das models"):
        find_weights("em")


def test_what_cannot_be_downloaded_is_named(home: Path, package: Path) -> None:
    write(home / "mine.safetensors")
    describe(home, f"far: {{url: 'http://127.0.0.1:9/x', sha256: '{'0' * 64}'}}")
    with pytest.raises(FileNotFoundError, match="there is no model 'fra'; models with a URL: far"):
        download_model("fra")
    with pytest.raises(ValueError, match="mine has no URL"):
        download_model("mine")
    with pytest.raises(OSError, match=r"http://127\.0\.0\.1:9/x could not be downloaded"):
        download_model("far")


# ---- float16


def test_only_large_tensors_that_lose_nothing_become_float16(tmp_path: Path) -> None:
    large = torch.randn(64, 64)
    state = {
        "large": large,
        "small": torch.randn(64),
        "out of range": large * 1e6,
        "tiny": large * 1e-9,
        "count": torch.arange(5000),
        "zero": torch.zeros(64, 64),
    }
    export_weights(tmp_path / "w.safetensors", to_float16(state), "")
    read = read_checkpoint(tmp_path / "w.safetensors")
    assert {name for name, value in read.items() if value.dtype == torch.float16} == {"large", "zero"}
    assert all(torch.equal(read[name], state[name]) for name in ("small", "out of range", "tiny", "count"))
    torch.testing.assert_close(read["large"].float(), large, rtol=2**-11, atol=1e-7)


def test_float16_is_loaded_as_the_networks_float32(home: Path, package: Path) -> None:
    network, other = nn.Linear(100, 100), nn.Linear(100, 100)
    export_weights(home / "half.safetensors", to_float16(network.state_dict()), "")
    PromptDASCheckpointer(other).load("half", checkpointables=[])
    assert other.weight.dtype == torch.float32
    assert torch.equal(other.weight, network.weight.half().float())
    assert torch.equal(other.bias, network.bias)
