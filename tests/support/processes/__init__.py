"""Real processes, ranks, sockets and terminals."""
