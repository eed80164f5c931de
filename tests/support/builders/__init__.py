"""Inputs: tokenizers, checkpoints, conversations, schemas, random arrivals of requests."""
