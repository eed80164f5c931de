"""The same computation written down another way, plainly, for comparison."""
