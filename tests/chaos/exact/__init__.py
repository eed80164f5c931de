"""Exact streams: services are killed, and no answer differs from an undisturbed one."""
