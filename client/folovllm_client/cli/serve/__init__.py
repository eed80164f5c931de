"""`folovllm serve`: both services in the foreground, and what a terminal shows of them."""
