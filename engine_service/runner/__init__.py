"""Where torch meets the scheduler: batches, KV cache, sampling.

The engine uses `build`, which chooses between `model_runner`, for CPUs and plain torch, and `gpu`.
"""
