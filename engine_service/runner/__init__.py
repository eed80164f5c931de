"""Where torch meets the scheduler: batches, KV cache, sampling."""
