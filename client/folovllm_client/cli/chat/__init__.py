"""`folovllm chat`: a conversation at a terminal or through pipes. `demo` uses `session`."""
