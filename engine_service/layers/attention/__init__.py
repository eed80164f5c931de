"""Attention over a paged KV cache.

`backend` is a step's metadata and what every backend does; `gpu_attention` belongs to the GPU's
decoder, the others to the one in plain torch.
"""
