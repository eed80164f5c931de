"""One part at a time: speculation, and deterministic mode."""
