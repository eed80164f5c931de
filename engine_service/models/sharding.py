"""What each rank of several has of a model: its part of the plan, and of every tensor.

A rank has some of the heads and some of the feed-forward layer's width. The results of the output
and down projections are summed over the ranks, after which every rank has all of the hidden states.
"""

from dataclasses import replace

import torch
from torch import Tensor

from engine_service.layers.parallel import TensorParallel
from engine_service.models.decoder_config import DecoderConfig
from engine_service.models.layer_plan import Cut


def shard_tensor(whole: Tensor, cut: Cut, parallel: TensorParallel) -> Tensor:
    """A rank's part of a checkpoint's tensor; a view unless it is padded.

    Of a tensor that lies in a file, only the part is read.
    """
    if parallel.size == 1 or cut is Cut.WHOLE:
        return whole
    if cut is Cut.ONCE:
        return whole if parallel.rank == 0 else torch.zeros_like(whole)
    dimension = 0 if cut is Cut.OUTPUTS else 1
    size = whole.shape[dimension]
    start, end = parallel.span(size)
    part = whole.narrow(dimension, start, end - start)
    missing = parallel.shard_size(size) - (end - start)
    if missing:
        part = torch.cat([part, whole.new_zeros(missing, *whole.shape[1:])])
    return part


def shard_config(config: DecoderConfig, parallel: TensorParallel) -> DecoderConfig:
    """That of a rank's part; the vocabulary's size stays that of the whole.

    Raises ConfigError, with the numbers, if the ranks cannot have equal parts.
    """
    return replace(config, plan=config.plan.shard(parallel.size))
