"""Kernels for CPUs, in C++: `build` compiles them once, `library` calls them through ctypes."""
