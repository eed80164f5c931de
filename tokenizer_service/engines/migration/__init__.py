"""How a stream goes on at another engine than the one that it began at."""
