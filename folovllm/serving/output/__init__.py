"""What a process prints, such that nothing that happens to it can block or fail the process."""
