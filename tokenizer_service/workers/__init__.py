"""Processes that serve on one port together: `Workers` is their parent."""
