"""Configs by name: those that come with the package are found from any working directory."""

from __future__ import annotations

import difflib
from pathlib import Path

CONFIGS = Path(__file__).resolve().parents[1] / "configs"  # installed with the package; in a checkout a link


def find_config(name: str | Path) -> Path:
    """The file of a config: ``name`` if there is such a file, else one of those that come with the package.

    ``quick/vnc2lucchi_wda`` is ``configs/quick/vnc2lucchi_wda.yaml``, with or without ``configs/`` and ``.yaml``.

    Raises:
        FileNotFoundError: there is neither; the message has names that are close.
    """
    path = Path(name).expanduser()
    found = path if path.exists() else packaged_config(name)
    if found is not None:
        return found
    names = config_names()
    close = difflib.get_close_matches(short_name(name), names, n=3, cutoff=0.5)
    raise FileNotFoundError(
        f"{name} is neither a file nor the name of a config that comes with prompt_das; "
        + (f"did you mean {' or '.join(close)}?" if close else f"these are {', '.join(names)}")
    )


def packaged_config(name: str | Path) -> Path | None:
    """The file of a config that comes with the package; None if there is none of this name."""
    path = CONFIGS / f"{short_name(name)}.yaml"
    return path if path.is_file() else None


def short_name(name: str | Path) -> str:
    """``configs/quick/vnc2lucchi_wda.yaml`` -> ``quick/vnc2lucchi_wda``."""
    return str(name).removesuffix(".yaml").removeprefix("configs/")


def config_names() -> list[str]:
    """The names of all configs that come with the package, those to build on (``Base-...``) left out."""
    names = (path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("*.yaml"))
    return sorted(name for name in names if not Path(name).name[0].isupper())
