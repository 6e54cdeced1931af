"""Plugins: Python modules of a user that register parts of the network, named by ``--plugin`` and kept in ``PLUGINS``.

A plugin is code, and importing it runs it. So it is imported where its user names it: with ``--plugin``, with
``plugins=`` in Python, or in ``PLUGINS`` of the config file that `prompt-das train` or `evaluate` gets, which is a
program of the user's own. A file of weights may be a stranger's, and so may the config inside or beside it: the plugins
that such a config names are required, see :func:`require_plugins`, but no file or module of that name is imported.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

GROUP = "prompt_das.plugins"  # of entry points

_imported: dict[str, ModuleType] = {}  # by name; files by their absolute path


def import_plugins(names: Sequence[str | Path]) -> tuple[str, ...]:
    """Import plugins, each once in a process.

    Args:
        names: each is the path of a ``.py`` file, relative to the working directory; the name of an installed entry
            point of the group ``prompt_das.plugins``; or a module, ``package.module``.

    Returns:
        the names to keep in ``PLUGINS``: files by their absolute path, so that they are found from any folder.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the module is not found, or its import fails; the message names the plugin and the line.
    """
    check_names(names)
    kept = [str(Path(name).expanduser().resolve()) if is_file_name(name) else str(name) for name in names]
    for name in kept:
        if name not in _imported:
            _imported[name] = _import(name)
    return tuple(kept)


def require_plugins(names: Sequence[str], origin: str | Path) -> None:
    """See that the plugins of a config that came with weights are imported, without importing what it names.

    Enough is a plugin that has been imported already (a file of that name, in whatever folder; a module), and an
    installed entry point, which is imported here: whoever installed it chose its code.

    Args:
        origin: the file of weights, for the message.

    Raises:
        ValueError: a plugin is neither; the message says how to name it.
    """
    check_names(names)
    for name in names:
        if name in sys.modules or Path(name).name in {Path(one).name for one in _imported}:
            continue
        if is_file_name(name) or not _find_entry_point(name):
            raise ValueError(
                f"{origin}: its config names the plugin {name!r}. Code is not imported because a file of weights names "
                f"it; if you trust this plugin, name it yourself: --plugin {name}, or plugins=[{name!r}] in Python"
            )
        import_plugins([name])


def check_names(names: Sequence[str | Path]) -> None:
    """Raise ValueError for a ``PLUGINS`` that is no list of names."""
    if isinstance(names, str) or not all(isinstance(name, str | Path) for name in names):
        raise ValueError(f"PLUGINS is {names!r}; use a tuple of names, as ('my_parts.py',)")


def is_file_name(name: str | Path) -> bool:
    """Whether a plugin is a file rather than a module or an entry point."""
    return Path(name).suffix == ".py"


def _find_entry_point(name: str) -> EntryPoint | None:
    return next(iter(entry_points(group=GROUP, name=name)), None)


def _import(name: str) -> ModuleType:
    if is_file_name(name) and not Path(name).is_file():
        raise FileNotFoundError(f"no plugin at {name}; --plugin takes a .py file, a module, or an entry point's name")
    try:
        if is_file_name(name):
            return _import_file(Path(name))
        entry_point = _find_entry_point(name)
        return importlib.import_module(entry_point.module if entry_point else name)
    except Exception as e:  # whatever the code of a user raises
        if isinstance(e, ModuleNotFoundError) and e.name and f"{name}.".startswith(f"{e.name}."):
            raise ValueError(
                f"the plugin {name} is not found: it is no entry point of {GROUP!r}, and no module that Python finds. "
                "Give the path of its file, as --plugin parts/my_parts.py, or install it"
            ) from e
        frame = traceback.extract_tb(e.__traceback__)[-1]
        raise ValueError(
            f"the plugin {name} cannot be imported: {type(e).__name__}: {e} ({frame.filename}, line {frame.lineno})"
        ) from e


def _import_file(path: Path) -> ModuleType:
    module_name = f"prompt_das_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # as importlib does: dataclasses and pickle look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module
