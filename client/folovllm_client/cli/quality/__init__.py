"""`folovllm parity` and `folovllm perplexity`: how exact and how good an engine is."""
