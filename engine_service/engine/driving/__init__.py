"""What takes an engine from command to command and from step to step."""
