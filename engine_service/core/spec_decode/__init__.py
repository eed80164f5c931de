"""Speculative decoding: guessing the next tokens of a sequence, and deciding how many to compute.

The scheduler uses `speculator`.
"""
