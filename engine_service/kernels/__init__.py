"""Device-specific sources. Each computes what plain torch elsewhere says; tests compare them."""
