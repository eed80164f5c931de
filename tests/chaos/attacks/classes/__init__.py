"""Generators of attacks: each draws cases of its class, of all sizes and in all places it fits."""
