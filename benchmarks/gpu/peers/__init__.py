"""What our engine stands beside on a GPU: transformers in its ways, and plain torch compiled."""
