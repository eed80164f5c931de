"""Decoders and how their checkpoints are read. They see tensors, never requests."""
