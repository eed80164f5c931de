"""Decoders and how their checkpoints are read. They see tensors, never requests.

Others use `loader`, `causal_model` (what every decoder is to its runner) and `decoder_config`.
"""
