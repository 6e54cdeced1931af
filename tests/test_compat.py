"""Old builds of Detectron2 get what they lack while they are imported; others are left alone.

The builds are imitated: packages named detectron2 in a temporary folder, imported by a fresh interpreter.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import textwrap
from pathlib import Path

import PIL.Image
import pytest

COMPAT = Path(__file__).parents[1] / "prompt_das" / "compat.py"

NEEDS_OPERATORS = "from detectron2 import _C\ndef call(): return _C.box_iou_rotated()"
DOES_WITHOUT = "try:\n    from detectron2 import _C\nexcept ImportError:\n    _C = None"
NEEDS_LINEAR = "from PIL import Image\nLINEAR = Image.LINEAR"


def imitate(folder: Path, **modules: str) -> None:
    """Write an importable detectron2 into `folder`: its modules by name, with their source."""
    (folder / "detectron2" / "utils").mkdir(parents=True)
    for name in ("__init__", "utils/__init__", "layers", "evaluation"):
        (folder / "detectron2" / f"{name}.py").touch()
    for name, source in modules.items():
        (folder / "detectron2" / f"{name}.py").write_text(source)


def run(folder: Path, code: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a fresh interpreter that finds `folder`'s detectron2 first and has compat.py as `compat`."""
    head = f"""
        import sys
        sys.path.insert(0, {str(folder)!r})
        import importlib.util
        spec = importlib.util.spec_from_file_location("compat", {str(COMPAT)!r})
        compat = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(compat)
    """
    source = textwrap.dedent(head) + textwrap.dedent(code)
    return subprocess.run([sys.executable, *options, "-c", source], capture_output=True, text=True, cwd=folder)


def output(folder: Path, code: str) -> str:
    result = run(folder, code)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_missing_detectron2_says_what_to_install_and_how(tmp_path):
    result = run(tmp_path, "compat.import_detectron2()", "-S")  # -S: an interpreter without installed packages
    assert "ImportError: prompt_das needs Detectron2" in result.stderr
    for word in ("pb1-detectron2==0.6", "--no-deps", "--no-build-isolation", "make install", "README.md"):
        assert word in result.stderr


def test_a_folder_that_happens_to_be_named_detectron2_is_no_installation(tmp_path):
    (tmp_path / "detectron2").mkdir()
    assert "ImportError: prompt_das needs Detectron2" in run(tmp_path, "compat.import_detectron2()", "-S").stderr


def test_old_build_is_lent_a_stand_in_that_names_what_is_missing(tmp_path):
    imitate(tmp_path, layers=NEEDS_OPERATORS, evaluation=NEEDS_OPERATORS)
    code = """
        compat.import_detectron2()
        import detectron2.layers
        print("detectron2._C" in sys.modules, hasattr(detectron2, "_C"))
        try:
            import detectron2._C
        except ImportError:
            print("not built")
        try:
            detectron2.layers.call()
        except AttributeError as error:
            print(error)
    """
    lent, built, error = output(tmp_path, code).splitlines()
    assert lent == "False False"
    assert built == "not built"
    assert error.startswith("detectron2._C.box_iou_rotated is missing: this Detectron2 was installed without")


def test_old_build_is_lent_the_old_name_of_bilinear(tmp_path):
    imitate(tmp_path, evaluation=NEEDS_LINEAR)
    code = """
        from PIL import Image
        before = hasattr(Image, "LINEAR")
        compat.import_detectron2()
        import detectron2.evaluation
        print(detectron2.evaluation.LINEAR == Image.BILINEAR, hasattr(Image, "LINEAR") == before)
    """
    assert output(tmp_path, code) == "True True"


def test_what_was_lent_is_taken_back_when_the_import_fails(tmp_path):
    imitate(tmp_path, layers=NEEDS_OPERATORS, evaluation="import no_such_package")
    code = """
        from PIL import Image
        before = hasattr(Image, "LINEAR")
        try:
            compat.import_detectron2()
        except ModuleNotFoundError as error:
            print(error.name)
        print("detectron2._C" in sys.modules, hasattr(Image, "LINEAR") == before)
    """
    assert output(tmp_path, code).split() == ["no_such_package", "False", "True"]


def test_compiled_build_keeps_its_operators(tmp_path):
    imitate(tmp_path, _C="def box_iou_rotated(): return 42", layers=NEEDS_OPERATORS)
    code = """
        compat.import_detectron2()
        import detectron2._C
        import detectron2.layers
        print(detectron2.layers.call())
    """
    assert output(tmp_path, code) == "42"


def test_a_current_build_without_operators_is_recognized(tmp_path):
    imitate(tmp_path, layers=DOES_WITHOUT, **{"utils/develop": ""})
    code = """
        compat.import_detectron2()
        import detectron2.layers
        print(detectron2.layers._C)
    """
    assert output(tmp_path, code) == "None"


@pytest.mark.parametrize("name", ["checkpoint", "data", "engine", "evaluation", "modeling", "utils.visualizer"])
def test_the_installed_detectron2_can_be_imported(name):
    importlib.import_module(f"detectron2.{name}")


def test_nothing_lent_is_left_in_this_process():
    assert ("detectron2._C" in sys.modules) <= (importlib.util.find_spec("detectron2._C") is not None)
    assert hasattr(PIL.Image, "LINEAR") == (int(PIL.__version__.split(".")[0]) < 10)
