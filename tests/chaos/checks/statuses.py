"""How a call may end that is the caller's own affair, whatever it sent."""

ALLOWED = frozenset(
    {
        *("OK", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "NOT_FOUND", "DEADLINE_EXCEEDED"),
        *("UNIMPLEMENTED", "ALREADY_EXISTS", "OUT_OF_RANGE", "FAILED_PRECONDITION"),
    }
)
"""Answered, or refused for what it is."""
