"""Streams that broke, and go on from what their callers have received."""
