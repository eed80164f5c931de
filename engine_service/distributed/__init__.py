"""One engine on several ranks: the first is asked and answers, the others do what it does.

`__main__` uses `launch` and `rank`. Between the ranks, `leader` says what is done and `broadcast`
carries it. The tensors' own exchange is `layers.parallel`.
"""
