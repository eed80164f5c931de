"""How the outputs of a step get to those who read them."""
