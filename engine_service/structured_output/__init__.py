"""Structured output: grammars that say which token ids may come next. No torch, no core."""
