"""Plugins: imported once where their user names them, and never because weights name them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

from prompt_das.config import plugins
from prompt_das.config.plugins import import_plugins, require_plugins

import pytest


@pytest.fixture(autouse=True)
def _nothing_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_imported", {})


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A plugin that adds a line to `imports.txt` whenever it is run."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "counted_parts.py"
    file.write_text("with open('imports.txt', 'a') as file:\n    file.write('imported\\n')\n")
    yield file
    sys.modules.pop("counted_parts", None)


def imports(plugin: Path) -> int:
    file = plugin.with_name("imports.txt")
    return len(file.read_text().splitlines()) if file.exists() else 0


def test_a_file_is_imported_once_and_kept_by_its_absolute_path(plugin: Path) -> None:
    assert import_plugins([plugin.name]) == import_plugins([plugin]) == (str(plugin),)
    assert imports(plugin) == 1


def test_a_module_is_imported_by_its_name(plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(plugin.parent)
    assert import_plugins(["counted_parts"]) == ("counted_parts",)
    assert imports(plugin) == 1


@pytest.fixture
def entry_point(plugin: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an installed entry point, whose module is the plugin."""
    monkeypatch.syspath_prepend(plugin.parent)
    installed = EntryPoint("my-lab", "counted_parts", plugins.GROUP)
    monkeypatch.setattr(plugins, "entry_points", lambda group, name: [installed] if name == installed.name else [])
    return installed.name


def test_an_entry_point_is_imported_by_its_name(plugin: Path, entry_point: str) -> None:
    assert import_plugins([entry_point]) == (entry_point,)
    assert imports(plugin) == 1


def test_weights_may_require_an_installed_entry_point(plugin: Path, entry_point: str) -> None:
    require_plugins([entry_point], "weights.pth")
    assert imports(plugin) == 1


@pytest.mark.parametrize("name", ["counted_parts.py", "./counted_parts.py", "counted_parts"])
def test_weights_that_name_a_file_or_a_module_import_nothing(
    plugin: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.syspath_prepend(plugin.parent)
    with pytest.raises(ValueError, match=rf"weights\.pth: its config names the plugin .*--plugin {name}"):
        require_plugins([name], "weights.pth")
    assert imports(plugin) == 0


def test_a_required_plugin_may_have_been_imported_from_another_folder(plugin: Path) -> None:
    import_plugins([plugin])
    require_plugins(["/home/somebody_else/counted_parts.py"], "weights.pth")
    assert imports(plugin) == 1


def test_what_is_missing_is_named_with_the_fix() -> None:
    with pytest.raises(FileNotFoundError, match=r"no plugin at .*nowhere\.py; --plugin takes"):
        import_plugins(["nowhere.py"])
    with pytest.raises(ValueError, match=r"no_such_package\.parts is not found.*path of its file"):
        import_plugins(["no_such_package.parts"])


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = 1\n1 / 0\n", r"ZeroDivisionError: .*broken\.py, line 2"),
        ("def f(:\n", r"SyntaxError: .*broken\.py, line 1"),
        ("import no_such_package\n", r"ModuleNotFoundError: .*no_such_package.*broken\.py, line 1"),
    ],
)
def test_a_plugin_that_fails_is_named_with_its_line(tmp_path: Path, code: str, message: str) -> None:
    (tmp_path / "broken.py").write_text(code)
    with pytest.raises(ValueError, match=rf"the plugin .*broken\.py cannot be imported: {message}"):
        import_plugins([tmp_path / "broken.py"])
    assert "prompt_das_plugin_broken" not in sys.modules


@pytest.mark.parametrize("names", ["my_parts.py", ("my_parts.py", 1)])
def test_names_come_in_a_tuple(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"use a tuple of names, as \('my_parts.py',\)"):
        import_plugins(names)
