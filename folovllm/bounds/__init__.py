"""The contract's bounds: its options as a table, and the check of messages against it."""
