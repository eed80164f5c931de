"""Which tokens to compute next, and where their KV lives. Standard library only."""
