"""Weights by name: models that come with the package, those of the user, and those that a URL is known of.

A name stands for a file of the package (``prompt_das/models``), or for one in the folder ``PROMPT_DAS_HOME``: every
``NAME.safetensors`` there, and what ``models.yaml`` there describes:

    my-lab: {file: /data/my_lab.safetensors, description: our liver}  # a path, from PROMPT_DAS_HOME
    large: {url: https://example.org/large.safetensors, sha256: 64 hexadecimal digits, pixel_size: 8}

``settings`` of an entry, ``{TEST.MIN_CONFIDENCE: 0.9}``, take the place of those in the config inside of the file.

Where a name is there twice, ``models.yaml`` of the user comes first, then the user's files, then the package. Nothing
is downloaded unless :func:`download_model` is called.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from prompt_das.checkpoint.safe_load import read_config
from prompt_das.config.yaml_loader import parse_yaml, read_yaml

PACKAGE = Path(__file__).resolve().parents[1] / "models"
REGISTRY = "models.yaml"
SUFFIX = ".safetensors"
KEYS = {"file", "url", "sha256", "pixel_size", "description", "card", "settings"}
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
PATH_SUFFIXES = {".pth", ".pt", ".safetensors", ".ckpt", ".bin", ".pkl"}  # what ends so is meant as a file
TIMEOUT = 30  # seconds without a byte
CHUNK = 64 << 10  # bytes


@dataclass(frozen=True)
class Model:
    """An entry of the zoo.

    Attributes:
        file: where the weights are, or will be once they are downloaded.
        place: "package", "home" (``PROMPT_DAS_HOME``, or a file named there) or "url".
        url: where they are downloaded from; "" if they are not.
        sha256: of the file, in hexadecimal digits; "" if nothing is compared.
        pixel_size: nm per pixel of the network's input, as the entry or its settings say; None if they do not.
        description: one line.
        card: the model card; None if there is none.
        settings: of the config, KEY, VALUE, ..., in the place of those inside of the file.
    """

    name: str
    file: Path
    place: str
    url: str = ""
    sha256: str = ""
    pixel_size: float | None = None
    description: str = ""
    card: Path | None = None
    settings: tuple[str, ...] = ()


def models_folder() -> Path:
    """The user's folder of models: ``PROMPT_DAS_HOME``, by default ``prompt_das`` in the user's cache folder."""
    home = os.environ.get("PROMPT_DAS_HOME")
    if home:
        return Path(home).expanduser().absolute()
    cache = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(cache) if os.path.isabs(cache) else Path.home() / ".cache") / "prompt_das"


def list_models() -> dict[str, Model]:
    """All models by name, in the order of the alphabet. No file of weights is opened.

    Models whose file is missing are left out, unless it can be downloaded.

    Raises:
        ValueError: a ``models.yaml`` is not plain YAML, or an entry makes no sense; names the file and the entry.
    """
    home = models_folder()
    models = _read_registry(PACKAGE, "package")
    downloads = {model.file for model in models.values() if model.url}  # they keep their SHA-256
    for file in sorted(home.glob(f"*{SUFFIX}")):
        if file not in downloads and NAME.fullmatch(file.stem):
            models[file.stem] = Model(file.stem, file, "home")
    models |= _read_registry(home, "home")
    return {name: model for name, model in sorted(models.items()) if model.url or model.file.is_file()}


def find_weights(weights: str | Path) -> Path:
    """The file of weights: ``weights`` itself if there is such a file, else that of the model of this name.

    A model whose SHA-256 is known is compared with it.

    Raises:
        FileNotFoundError: neither a file nor a model, or a model that was not downloaded yet; says what to do.
        ValueError: the file of a model is another one than it should be, or a ``models.yaml`` is damaged.
    """
    path = Path(weights).expanduser()
    if path.is_file():
        return path
    name = str(weights)
    if path.suffix.lower() in PATH_SUFFIXES or not NAME.fullmatch(name):
        raise FileNotFoundError(f"no weights at {weights}; check MODEL.WEIGHTS or --weights")
    models = list_models()
    if name not in models:
        known = f"known models are {', '.join(models)}" if models else "there are no models here"
        raise FileNotFoundError(
            f"no weights at {weights}: it is neither a file nor the name of a model; {known}, see `prompt-das models`. "
            "Weights of a training have a path, as output/my_run/model_final.pth"
        )
    model = models[name]
    if not model.file.is_file():
        raise FileNotFoundError(
            f"the weights of {name} are not on this machine, and nothing is downloaded unasked; fetch them from "
            f"{model.url} with: prompt-das models --download {name}"
        )
    _compare(model)
    return model.file


def settings_of(file: Path) -> list[str]:
    """The settings (KEY, VALUE, ...) that the entry of a model says of its file; none of other files.

    Raises:
        ValueError: a ``models.yaml`` is damaged.
    """
    for model in list_models().values():
        if model.settings and model.file.resolve() == file.resolve():
            return list(model.settings)
    return []


def download_model(name: str, report: Callable[[int, int], object] = lambda done, total: None) -> Path:
    """Download the weights of a model that has a URL, unless they are there. An interrupted download is continued.

    Args:
        report: called with (bytes done, bytes in all, 0 if the server does not say).

    Returns:
        the file, in :func:`models_folder`.

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: it has no URL, what came is another file than it should be, or pooch is not installed.
        OSError: the connection failed, or the disk is full; what has arrived is kept.
    """
    models = list_models()
    if name not in models:
        known = ", ".join(name for name, model in models.items() if model.url) or "none"
        raise FileNotFoundError(f"there is no model {name!r}; models with a URL: {known}")
    model = models[name]
    if not model.url:
        raise ValueError(f"{name} has no URL to download it from; its weights are {model.file}")
    try:
        import pooch
        import requests
    except ImportError as error:
        raise ValueError(
            f"downloads need pooch: pip install 'prompt_das[download]'. Or save {model.url} as {model.file} yourself"
        ) from error
    part = model.file.with_name(f"{model.file.name}.part")

    def resume(url: str, output_file: Any, _: Any) -> None:
        with open(part, "ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OSError(f"another process downloads {name} to {part}; wait for it, or stop it") from None
            fetch(url, file)
            os.replace(part, output_file)

    def fetch(url: str, file: BinaryIO) -> None:
        done = file.seek(0, os.SEEK_END)
        headers = {"Range": f"bytes={done}-", "Accept-Encoding": "identity"} if done else {}
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            if done and response.status_code == requests.codes.requested_range_not_satisfiable:
                pass  # it was complete; if not, its digest differs
            else:
                response.raise_for_status()
                done *= response.status_code == requests.codes.partial_content  # else it begins anew
                total = done + int(response.headers.get("Content-Length", -done))
                file.truncate(done)
                for chunk in response.iter_content(CHUNK):
                    file.write(chunk)
                    done += len(chunk)
                    report(done, total)
        file.flush()

    try:
        pooch.retrieve(
            model.url, f"sha256:{model.sha256}", fname=model.file.name, path=model.file.parent, downloader=resume
        )
    except requests.RequestException as error:
        raise OSError(f"{model.url} could not be downloaded: {error}. The same command goes on where it was") from error
    except ValueError as error:  # pooch has compared the digest, and has removed what came
        raise ValueError(f"{model.url} is not the file that {name} should be: {error}") from error
    return model.file


def read_pixel_size(model: Model) -> float | None:
    """nm per pixel of the network's input: as the entry says, else as the config in the file says; None if neither.

    Raises:
        ValueError: the file is no readable file of weights.
    """
    if model.pixel_size is not None or not model.file.is_file():
        return model.pixel_size
    config = parse_yaml(read_config(model.file), f"the config inside of {model.file}")
    section = config.get("INPUT") if isinstance(config, dict) else None
    size = section.get("PIXEL_SIZE") if isinstance(section, dict) else None
    return _positive(size)


def sha256_of(file: Path) -> str:
    """SHA-256 of a file in hexadecimal digits."""
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _compare(model: Model) -> None:
    """Raise ValueError if the file of a model has another SHA-256 than its entry says."""
    if model.sha256 and (found := sha256_of(model.file)) != model.sha256:
        mend = {
            "package": "install prompt_das again",
            "home": f"replace the file, or mend its sha256 in {models_folder() / REGISTRY}",
            "url": f"fetch it again: prompt-das models --download {model.name}",
        }
        raise ValueError(
            f"{model.file} is not the file that {model.name} should be: its SHA-256 is {found}, not {model.sha256}; "
            f"{mend[model.place]}"
        )


def _positive(value: object) -> float | None:
    """``value`` if it is a positive number, else None."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if 0 < value < float("inf") else None


def _read_registry(folder: Path, place: str) -> dict[str, Model]:
    """The entries of the ``models.yaml`` in a folder; none where there is no such file."""
    path = folder / REGISTRY
    if not path.is_file():
        return {}
    content = read_yaml(path)
    if not isinstance(content, dict | None):
        raise ValueError(f"{path}: models are written as `NAME: {{file: ...}}`, not as a {type(content).__name__}")
    return {name: _read_entry(name, entry, path, place) for name, entry in (content or {}).items()}


def _read_entry(name: object, entry: object, path: Path, place: str) -> Model:
    if not isinstance(name, str) or not NAME.fullmatch(name) or Path(name).suffix.lower() in PATH_SUFFIXES:
        raise ValueError(f"{path}: {name!r} is no name for a model; use letters, digits, - and _, and no ending")
    if not isinstance(entry, dict) or ("file" in entry) == ("url" in entry):
        raise ValueError(f"{path}: {name} needs either `file: PATH` or `url: ADDRESS` and `sha256: DIGITS`")
    if unknown := sorted(map(str, entry.keys() - KEYS)):
        raise ValueError(f"{path}: {name} has {', '.join(unknown)}; an entry may have {', '.join(sorted(KEYS))}")
    for key in KEYS - {"pixel_size", "settings"}:
        if not isinstance(entry.get(key, ""), str) or "\0" in entry.get(key, ""):
            raise ValueError(f"{path}: {key} of {name} is {entry[key]!r}; write it as text, in quotes")
    settings = entry.get("settings", {})
    if not isinstance(settings, dict) or not all(isinstance(key, str) for key in settings):
        raise ValueError(f"{path}: settings of {name} are {settings!r}; write them as `{{KEY: VALUE}}`")
    url, sha256 = entry.get("url", ""), entry.get("sha256", "").lower()
    size = entry.get("pixel_size", settings.get("INPUT.PIXEL_SIZE"))
    if "url" in entry and not re.fullmatch(r"https?://\S+", url):
        raise ValueError(f"{path}: url of {name} is {url!r}; use one that begins with https://")
    if (url or sha256) and not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise ValueError(f"{path}: {name} needs `sha256:` with 64 hexadecimal digits, as `sha256sum` prints them")
    if size is not None and _positive(size) is None:
        raise ValueError(f"{path}: pixel_size of {name} is {size!r}; use nm per pixel, a positive number")
    return Model(
        name=name,
        file=models_folder() / f"{name}{SUFFIX}" if url else path.parent / Path(entry["file"]).expanduser(),
        place="url" if url else place,
        url=url,
        sha256=sha256,
        pixel_size=_positive(size),
        description=entry.get("description", ""),
        card=path.parent / entry["card"] if entry.get("card") else None,
        settings=tuple(word for key, value in settings.items() for word in (key, str(value))),
    )
