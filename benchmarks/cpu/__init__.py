"""Engines and services side by side on this CPU."""
