"""Helpers that any folder may use: atomic writes, pictures."""
