"""Faults of whole processes, one class of them a file; `catalogue` has them all by name."""
