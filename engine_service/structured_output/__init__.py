"""Structured output: grammars that decide which token ids may come next. No torch, no core.

The engine uses `grammar_compiler`, the runners `bitmask_filler` and `matcher`.
"""
