"""Attention over a paged KV cache.

`backend` is a step's metadata and what every backend does, `choice` chooses one in plain torch;
 `gpu_attention` belongs to the GPU's decoder.
"""
