"""Requests of every kind, what they must answer, and callers of all manners."""
