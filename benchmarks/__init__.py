"""Runnable measurements; each prints what it found."""
