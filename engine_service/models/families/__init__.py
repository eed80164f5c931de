"""Families of models: each reads its layers from config.json as a plan. For the registry alone."""
