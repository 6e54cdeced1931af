"""Inference: interactive (one slice, clicks) and volume (out of core)."""
