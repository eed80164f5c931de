"""`folovllm replay`: recorded requests run again, and where the first token differs."""
