"""Linear layers by what their weights are made of, and how they are packed and tuned.

`linear` is the plain one and the protocol of all; `packing` chooses what a CPU computes with.
"""
