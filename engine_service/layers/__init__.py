"""The building blocks of a decoder: attention over the paged KV cache, norms, rotary positions."""
