"""From logits to tokens and log-probabilities, in plain torch. For the runners alone.

`sampler` states the order of what happens to a row. The GPU's runner uses what its kernels lack.
"""
