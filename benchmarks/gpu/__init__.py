"""The engine, its kernels and other engines on this NVIDIA GPU."""
