"""The memory of a service's process: `settling` at its start, `upkeep` while it serves."""
