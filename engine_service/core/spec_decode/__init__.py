"""Speculative decoding: what a sequence may say next, and whether to compute it ahead.

The scheduler uses `speculator`.
"""
