"""Files of weights: read safely, and compared with the checksums that were written with them."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prompt_das.utils.atomic_write import atomic_write

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

DAMAGED = (
    RuntimeError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    AssertionError,
    OSError,
    OverflowError,
    MemoryError,
    SafetensorError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
CONFIG = "config"  # of a checkpoint: the YAML text of its run's config
CHECKSUM, DIGEST = "prompt_das.checksum", "prompt_das.sha256"  # in the metadata; one flipped bit cannot hide both


class DamagedCheckpointError(ValueError):
    """A file that is no longer what was written, or never was a checkpoint."""


def check_records(path: str | Path) -> None:
    """Compare every record of a file of ``torch.save`` with the CRC-32 that was written with it.

    ``torch.load`` does not: of 2000 flipped bits in a small file it loaded 83 % as if nothing had happened.

    Raises:
        zipfile.BadZipFile: a record differs, or is compressed (``torch.save`` never does it, and a file of a megabyte
            could fill the memory); so do other errors of ``DAMAGED`` for a damaged archive.
    """
    with open(path, "rb") as f:
        if f.read(4) != b"PK\x03\x04":  # torch's format of before 2020 has no checksums
            return
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        if any(record.compress_type != zipfile.ZIP_STORED for record in records):
            raise zipfile.BadZipFile("its records are compressed")
        if sum(record.file_size for record in records) > os.path.getsize(path):
            raise zipfile.BadZipFile("its records claim more bytes than the file has")
        record = archive.testzip()
    if record is not None:
        raise zipfile.BadZipFile(f"the checksum of {record} is wrong")


def read_checkpoint(path: str | Path, *, mapped: bool = False) -> dict[str, Any]:
    """Load a ``.pth`` or ``.safetensors`` file on the CPU. Nothing in it is ever executed.

    Checksums are compared where there are any: in all that this package writes, and in all files of ``torch.save``
    since 2020. Safetensors files of others have none.

    Args:
        mapped: read the tensors of a ``.pth`` from the file when they are used; it must not change until then.

    Returns:
        what the file holds: for a training checkpoint a dict with "model" and "teacher", else a plain state dict.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedCheckpointError: the file is damaged.
        ValueError: it holds anything else than tensors and plain Python containers.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no weights at {path}; check MODEL.WEIGHTS")
    try:
        if Path(path).suffix == ".safetensors":
            state = load_file(path)
            compare_digest(state, read_metadata(path))
            return state
        check_records(path)
        # torch's format of before 2020 cannot be mapped
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and zipfile.is_zipfile(path))
    except pickle.UnpicklingError as e:
        raise ValueError(f"{path} was refused, since it holds more than weights: {e}") from e
    except DAMAGED as e:
        raise DamagedCheckpointError(f"{path} is not a readable checkpoint (damaged, or another format): {e}") from e
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a checkpoint")
    return content


def check_weights(state: object, path: str | Path) -> dict[str, Tensor]:
    """``state`` if it is a state dict that can be loaded: names, and ordinary tensors of finite numbers.

    Raises:
        ValueError: it is not; the message names the file ``path`` and the tensor.
    """
    if not isinstance(state, dict):
        raise ValueError(f"{path}: expected the weights of a network by name, found a {type(state).__name__}")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(f"{path}: {name!r:.100} is a {type(value).__name__}; weights are tensors by name")
        if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
            raise ValueError(
                f"{path}: {name} is not an ordinary tensor ({value.layout}, {value.dtype}, {value.device})"
            )
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(f"{path}: {name} claims the shape {tuple(value.shape)}, and has fewer values in the file")
        if not torch.isfinite(value).all():
            raise ValueError(f"{path}: {name} holds values that are NaN or infinite; take an earlier checkpoint")
    return state


def export_weights(path: str | Path, state: dict[str, Tensor], config: str, **provenance: str) -> None:
    """Write weights for sharing as safetensors.

    Args:
        config: YAML, written into the metadata, with a checksum of all.
        provenance: further entries of the metadata.
    """
    state = {name: value.contiguous() for name, value in state.items()}
    metadata = {"format": "pt", "prompt_das.config": config, **provenance, CHECKSUM: "sha256"}
    with atomic_write(path) as part:
        # not save_file: only their owner may read its files
        part.write_bytes(save(state, {**metadata, DIGEST: digest_of(state, metadata)}))


def digest_of(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 over the metadata (but the digest itself) and, in the order of their names, the tensors: name, type,
    shape, bytes."""
    sha = hashlib.sha256(json.dumps({k: v for k, v in metadata.items() if k != DIGEST}, sort_keys=True).encode())
    for name, value in sorted(state.items()):
        sha.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        sha.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def compare_digest(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Raise ValueError if a file that was written with a checksum has another content now."""
    if CHECKSUM not in metadata and DIGEST not in metadata:
        return
    if metadata.get(CHECKSUM) != "sha256" or metadata.get(DIGEST) != digest_of(state, metadata):
        raise ValueError("its checksum is wrong")


def read_config(path: str | Path) -> str:
    """The YAML text of the config inside a file of weights; "" where there is none.

    Only the text of a checkpoint is read: its weights are mapped into memory and never touched.

    Raises:
        DamagedCheckpointError: the file is damaged.
        ValueError: it holds more than weights, or is not a readable safetensors file.
    """
    if Path(path).suffix == ".safetensors":
        return read_metadata(path).get("prompt_das.config", "")
    text = read_checkpoint(path, mapped=True).get(CONFIG, "")
    return text if isinstance(text, str) else ""


def read_metadata(path: str | Path) -> dict[str, str]:
    """The metadata of a safetensors file, ``"prompt_das.config"`` among them; {} for other files.

    Raises:
        ValueError: it is not a readable safetensors file.
    """
    if Path(path).suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, framework="pt") as f:
            return f.metadata() or {}
    except DAMAGED as e:
        raise ValueError(f"{path} is not a readable safetensors file: {e}") from e
