"""Attention over the paged cache: for decodes, for prompts, and the cache's writes (`rope`)."""
