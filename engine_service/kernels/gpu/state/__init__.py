"""What the device keeps of each sequence from step to step."""
