"""Runnable measurements; each prints what it found.

`cpu` and `gpu` are whole comparisons with `peers`, `services` loads the services, `micro` measures
one part; `harness` is what they share.
"""
