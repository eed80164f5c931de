"""Embedding and logits, with a span of the vocabulary on each rank.

A rank's weight has `parallel.shard_size(vocab_size)` rows. If the vocabulary does not divide,
the last rows are padding, and their logits are dropped.
"""

import torch
from torch import Tensor
from torch.nn import functional

from engine_service.layers.parallel import TensorParallel


def embed(
    token_ids: Tensor, weight: Tensor, dtype: torch.dtype, parallel: TensorParallel
) -> Tensor:
    """Token ids [T] -> their rows of all ranks' weights, [T, hidden_size], in `dtype`."""
    if parallel.size == 1:
        return functional.embedding(token_ids, weight).to(dtype)
    rows = token_ids - parallel.rank * len(weight)
    others = (rows < 0) | (rows >= len(weight))
    hidden = functional.embedding(rows.masked_fill(others, 0), weight).to(dtype)
    return parallel.all_reduce(hidden.masked_fill_(others[:, None], 0.0))


def gather_logits(logits: Tensor, vocab_size: int, parallel: TensorParallel) -> Tensor:
    """This rank's logits [S, rows of the weight] -> all, [S, vocab_size], contiguous."""
    if parallel.size == 1:
        return logits
    gathered = parallel.all_gather(logits.contiguous())
    return torch.cat(gathered.unbind(), dim=-1)[:, :vocab_size].contiguous()
