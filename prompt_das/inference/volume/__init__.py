"""Prediction of whole volumes, out of core: slices, instances, linking, export."""
