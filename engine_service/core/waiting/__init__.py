"""Sequences that wait: in what order, and how much is queued."""
