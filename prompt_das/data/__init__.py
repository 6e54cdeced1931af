"""Volumes, registered datasets, mappers and loaders. Importing this package registers the built-in names."""

from .datasets import register_em_volume, register_volumes_from_yaml

__all__ = ["register_em_volume", "register_volumes_from_yaml"]
