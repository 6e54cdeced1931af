"""List the weights that have a name, and download those that have a URL."""

from __future__ import annotations

import argparse
import sys

from prompt_das.checkpoint.model_zoo import Model, download_model, list_models, models_folder, read_pixel_size

from tabulate import tabulate

HEADERS = ("name", "where", "MB", "nm per pixel", "description")


def run(args: argparse.Namespace) -> None:
    if args.download:
        print(download_model(args.download, show_progress if sys.stderr.isatty() else lambda done, total: None))
        return
    models = list_models()
    if models:
        print(tabulate([row_of(model) for model in models.values()], HEADERS, disable_numparse=True))
    else:
        print("There are no models yet.")
    print(f"\nYours: put NAME.safetensors into {models_folder()}")


def row_of(model: Model) -> tuple[str, str, str, str, str]:
    """What the table says of a model."""
    here = model.file.is_file()
    where = {"package": "package", "home": str(model.file), "url": str(model.file) if here else "not downloaded"}
    size = f"{model.file.stat().st_size / 1e6:.1f}" if here else ""
    description = model.description
    try:
        pixel_size = read_pixel_size(model)
    except ValueError:
        pixel_size, description = None, "damaged, or no weights"
    return model.name, where[model.place], size, "" if pixel_size is None else f"{pixel_size:g}", description


def show_progress(done: int, total: int) -> None:
    """One line on the terminal, written over and over."""
    text = f"{done / 1e6:.1f} of {total / 1e6:.1f} MB" if total else f"{done / 1e6:.1f} MB"
    print(f"\r{text}", end="\n" if done == total else "", file=sys.stderr)
