"""What is judged, and how the verdicts are told."""
