"""What limits or ends an output: grammars, bad words and stop tokens."""
