"""The command `folovllm`: `commands` lists its subcommands. For `__main__` alone."""
