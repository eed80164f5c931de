"""Builds the distributions and checks them as their users will meet them; see __main__."""
