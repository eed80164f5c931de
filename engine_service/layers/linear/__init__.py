"""Linear layers by the form of their weights, and how they are packed and tuned.

`linear` is the plain one and the protocol of all; `packing` chooses the form on a CPU.
"""
