"""Weights by name, at the address where users of Detectron2 expect them; see prompt_das/checkpoint/model_zoo.py."""

from prompt_das.checkpoint.model_zoo import (
    Model,
    download_model,
    find_weights,
    list_models,
    models_folder,
    read_pixel_size,
)

__all__ = ["Model", "download_model", "find_weights", "list_models", "models_folder", "read_pixel_size"]
