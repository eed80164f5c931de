"""What AsyncEngine has taken on: what each command demands, and the streams of those that run."""
