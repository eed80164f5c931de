"""`folovllm pull`, `list` and `rm`: the models of the hub in this machine's cache."""
