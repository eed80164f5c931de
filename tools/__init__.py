"""Programs that make what the repository holds, and that check it."""
