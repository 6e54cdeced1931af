"""Synthetic electron micrographs, each of another style: a labeled source that needs no data of others."""
