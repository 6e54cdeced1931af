"""YAML of strangers: read as plain data, in bounded time and memory, with errors that name the file.

``yaml.safe_load`` runs no code, but a few lines with aliases can stand for more than any memory holds, a key that is
there twice loses its first value without a word, and its errors are of a dozen types.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from prompt_das.config.find import packaged_config

import yaml

# A complete config has 15 kB, 600 values and 5 levels.
MAX_BYTES = 256 << 10
MAX_VALUES = 20_000  # where aliases are written out
MAX_DEPTH = 20
MAX_TEXT = 4096  # of one value: the longest are paths
MAX_NUMBER = 100
MAX_BASES = 20
# What PyYAML raises, beside its own errors, for values that are not what their tag or their look says.
_LIBRARY_ERRORS = (ValueError, LookupError, AttributeError, TypeError, ArithmeticError, RecursionError)


def read_yaml(path: str | Path) -> Any:
    """The content of a YAML file, see :func:`parse_yaml`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not plain YAML.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist, or is not a file")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, too many for a YAML file here; is it another file?")
    return parse_yaml(path.read_bytes(), str(path))


def parse_yaml(text: str | bytes, name: str) -> Any:
    """Plain values, lists and dicts. Tags that name Python objects are refused, nothing is run.

    Args:
        text: bytes are UTF-8, or UTF-16 with its mark.
        name: of the file, for messages.

    Raises:
        ValueError: it is not YAML, names Python objects, has a key twice, or holds more than any config does.
    """
    if len(text) > MAX_BYTES:
        raise ValueError(f"{name} has {len(text)} characters of YAML, too many for a config")
    loader = None
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _measure(node, {})
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ValueError(f"{name} is not valid YAML: {error}") from error
    except RecursionError as error:
        raise ValueError(f"{name} is not valid YAML: nested too deeply") from error
    except _LIBRARY_ERRORS as error:
        raise ValueError(f"{name} is not valid YAML: {error}") from error
    finally:
        if loader is not None:
            loader.dispose()


def _measure(node: yaml.Node, measured: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """(values, levels) of a node with its aliases written out, each node visited once. Raises ValueError, see above."""
    if id(node) in measured:
        size, height = measured[id(node)]
        if not height:
            raise ValueError(f"the value in line {_line(node)} contains itself")
        return size, height
    measured[id(node)] = 0, 0
    size = height = 1
    if isinstance(node, yaml.ScalarNode):
        longest = MAX_TEXT if node.tag == "tag:yaml.org,2002:str" else MAX_NUMBER
        if len(node.value) > longest:
            raise ValueError(f"a value of {len(node.value)} characters in line {_line(node)}")
    elif isinstance(node, yaml.MappingNode):
        keys: set[tuple[str, str]] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in keys:
                    raise ValueError(f"the key {key.value!r} comes twice, again in line {_line(key)}")
                keys.add((key.tag, key.value))
            for part in (key, value):
                more, levels = _measure(part, measured)
                size, height = size + more, max(height, levels + 1)
    else:
        for value in node.value:
            more, levels = _measure(value, measured)
            size, height = size + more, max(height, levels + 1)
    if size > MAX_VALUES or height > MAX_DEPTH:
        raise ValueError(f"line {_line(node)} stands for {size} values in {height} levels, too many for a config")
    measured[id(node)] = size, height
    return size, height


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1


def read_config_file(path: str | Path) -> dict[str, Any]:
    """A Detectron2 config file with what its ``_BASE_`` names: one file or a list, relative to the file itself, or
    names of configs that come with the package.

    Unlike Detectron2 it never fetches a base from the network.

    Raises:
        FileNotFoundError: the file or a base does not exist.
        ValueError: see :func:`parse_yaml`; bases that go round in a circle, or are no files of this machine.
    """
    return _with_bases(Path(path).expanduser(), (), [])


def _with_bases(path: Path, above: tuple[Path, ...], read: list[Path]) -> dict[str, Any]:
    here = Path(os.path.realpath(path))
    if here in above:
        raise ValueError(f"{above[-1]}: its _BASE_ {path} leads back to itself")
    read.append(here)
    if len(read) > MAX_BASES:
        raise ValueError(f"{read[0]}: more than {MAX_BASES} files by _BASE_")
    if above and not here.is_file():
        raise FileNotFoundError(f"{above[-1]}: its _BASE_ {path} does not exist")
    content = read_yaml(path)
    if content is None:
        content = {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ValueError(f"{path}: a config holds lines `KEY: value`")
    bases = content.pop("_BASE_", [])
    merged: dict[str, Any] = {}
    for base in bases if isinstance(bases, list) else [bases]:
        if not isinstance(base, str) or not base or "\0" in base or "://" in base:
            raise ValueError(f"{path}: _BASE_ {base!r} is not the path of a file on this machine")
        file = path.parent / Path(base).expanduser()
        if not file.is_file():
            file = packaged_config(base) or file
        _merge(_with_bases(file, (*above, here), read), merged, path)
    _merge(content, merged, path)
    return merged


def _merge(new: dict[str, Any], into: dict[str, Any], path: Path) -> None:
    for key, value in new.items():
        if isinstance(value, dict) and key in into:
            if not isinstance(into[key], dict):
                raise ValueError(f"{path}: {key} is a section here and a value in its _BASE_")
            _merge(value, into[key], path)
        else:
            into[key] = value
