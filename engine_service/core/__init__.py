"""Which tokens to compute next, and where their KV lives. Standard library only.

The engine uses `scheduler`, `request` and `sequence`; `outputs` holds the values that pass between
scheduler and runner. Everything else is the scheduler's own.
"""
