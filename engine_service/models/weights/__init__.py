"""Checkpoints as tensors by name, one reader for each format. For the loader alone."""
