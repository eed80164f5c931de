"""Fuzz: messages and grammars of which nobody would think, for real services; see docs/chaos.md."""
