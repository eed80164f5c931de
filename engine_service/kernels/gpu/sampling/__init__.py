"""Draws without a sort: `sampler` is what the runner launches; `bitmask` forbids ids before it."""
