"""Registered datasets, mappers and loaders. Importing this package registers the built-in names."""

from prompt_das.data import builtin as _  # noqa: F401
