"""Which tokens to compute next, and where their KV lives. Standard library only.

The engine uses `scheduler` and `request`; `outputs` holds the values that pass between scheduler
and runner. All else is the scheduler's own.
"""
