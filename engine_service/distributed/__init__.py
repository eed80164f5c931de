"""One engine on several ranks: the first serves, the others repeat its commands and steps.

`__main__` uses `launch` and `rank`. `leader` decides what is sent between the ranks, `broadcast`
carries it. Tensors are exchanged by `layers.parallel`.
"""
