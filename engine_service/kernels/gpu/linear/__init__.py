"""Products for few rows, and the norms and activations between them."""
