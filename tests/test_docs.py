"""The documentation is right: links lead somewhere, commands can be typed, the reference is that of the code.

Every command of this project in a ```bash block is parsed; the blocks marked ```bash runnable are run as they stand.
"""

from __future__ import annotations

import argparse
import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.__main__ import BENCHMARKS
from docs.generate_reference import PAGES
from prompt_das.config.defaults import defaults
from prompt_das_cli import build_parser, main

import pytest
import yaml
from detectron2.config import CfgNode, get_cfg

ROOT = Path(__file__).parents[1]
PAGES_TO_READ = sorted({*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "datasets" / "README.md"})
BLOCK = re.compile(r"^ *```bash( runnable)?\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def page_id(path: Path) -> str:
    return str(path.relative_to(ROOT))


def lines(block: str) -> list[list[str]]:
    """The words of each command in a block, without comments; a backslash at the end of a line continues it."""
    text = block.replace("\\\n", " ")
    return [words for line in text.splitlines() if (words := shlex.split(line, comments=True))]


def documented() -> Iterator[tuple[Path, list[str]]]:
    for page in PAGES_TO_READ:
        for _, block in BLOCK.findall(page.read_text()):
            for words in lines(block):
                yield page, words


def keys(cfg: CfgNode, prefix: str = "") -> set[str]:
    """Every dotted key below ``cfg``."""
    found: set[str] = set()
    for name, value in cfg.items():
        found |= keys(value, f"{prefix}{name}.") if isinstance(value, CfgNode) else {prefix + name}
    return found


def anchors(page: Path) -> set[str]:
    """What links to the headings of a page end with, as GitHub names them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES_TO_READ, ids=page_id)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", page.read_text())
    here = [(page.parent / file if file else page, anchor) for file, anchor in links if "://" not in file]
    assert [file for file, _ in here if not file.exists()] == []
    assert [(file, anchor) for file, anchor in here if anchor and anchor not in anchors(file)] == []


@pytest.mark.parametrize("page", PAGES_TO_READ, ids=page_id)
def test_files_of_the_repository_that_are_named_exist(page: Path) -> None:
    """And so do the tests in them, as in ``tests/ops/test_points.py::test_name``."""
    folders = "tests|tools|benchmarks|prompt_das|configs"
    files = re.findall(rf"(?<![\w/])((?:{folders})/[\w/.-]+\.(?:py|yaml))(?:::(\w+))?", page.read_text())
    assert [file for file, _ in files if not (ROOT / file).is_file()] == []
    assert [test for file, test in files if test and f"def {test}(" not in (ROOT / file).read_text()] == []


@pytest.mark.parametrize(("page", "words"), [pytest.param(p, w, id=" ".join(w)[:70]) for p, w in documented()])
def test_commands_can_be_typed(page: Path, words: list[str]) -> None:
    if words[0] == "prompt-das" and words[1:] != ["--help"]:
        args = build_parser().parse_args(words[1:])
        names = re.findall(r"[A-Z][A-Z0-9_]+(?:\.[A-Z0-9_]+)+", " ".join((getattr(args, "opts", None) or [])[::2]))
        assert set(names) <= keys(defaults())
    elif words[:3] == ["python", "-m", "benchmarks"]:
        parser = argparse.ArgumentParser()
        for option in ("--repeats", "--seed", "--threads"):
            parser.add_argument(option, type=int)
        BENCHMARKS[words[3]].add_arguments(parser)
        parser.parse_args(words[4:])
    elif words[0] == "make":
        targets = re.findall(r"^([\w -]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in words[1:] if "=" not in word} <= {name for line in targets for name in line.split()}
    elif words[0] == "python":
        assert (ROOT / words[1]).is_file()


def other_code() -> Iterator[tuple[Path, str, str]]:
    for page in PAGES_TO_READ:
        for language, code in re.findall(r"^```(python|yaml)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
            yield page, language, code


@pytest.mark.parametrize(("page", "language", "code"), [pytest.param(*one, id=page_id(one[0])) for one in other_code()])
def test_python_and_yaml_are_well_formed_and_commands_in_them_can_be_typed(
    page: Path, language: str, code: str
) -> None:
    if language == "python":
        texts = [node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)]
        commands = [shlex.split(text) for text in texts if str(text).startswith("prompt-das ")]
    else:
        commands = [command for document in yaml.safe_load_all(code) for command in commands_of(document)]
    for words in commands:
        if words[0] == "prompt-das":
            build_parser().parse_args(words[1:])


def commands_of(node: Any) -> Iterator[list[str]]:
    """The commands of all containers in a manifest of Kubernetes."""
    if isinstance(node, dict):
        if "command" in node:
            yield [*node["command"], *node.get("args", [])]
        node = list(node.values())
    for one in node if isinstance(node, list) else []:
        yield from commands_of(one)


RUNNABLE = [(page, block) for page in PAGES_TO_READ for mark, block in BLOCK.findall(page.read_text()) if mark]


@pytest.mark.usefixtures("forget_new_names")
@pytest.mark.parametrize(("page", "block"), [pytest.param(p, b, id=page_id(p)) for p, b in RUNNABLE])
def test_the_commands_that_docs_show_run(
    page: Path, block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for words in lines(block):
        if words[0] == "export":
            monkeypatch.setenv(*words[1].split("=", 1))
        else:
            main(words[1:])
    assert any(tmp_path.iterdir())


def test_something_is_run() -> None:
    assert RUNNABLE


@pytest.mark.parametrize("name", PAGES)
def test_the_reference_is_up_to_date(name: str) -> None:
    """If not: python -m docs.generate_reference"""
    assert (ROOT / "docs" / "reference" / name).read_text() == PAGES[name]()


def test_every_key_is_in_the_reference() -> None:
    text = (ROOT / "docs" / "reference" / "config.md").read_text()
    new = keys(defaults()) - keys(get_cfg())
    assert sorted(key for key in new if f"`{key}`" not in text) == []
