"""Attention over a paged KV cache.

`backend` is what a step hands over and what every backend does, `choice` chooses one in plain
torch; `gpu_attention` belongs to the GPU's decoder.
"""
