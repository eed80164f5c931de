"""What each rank of several has of a model: its shape, and its part of every tensor.

The rules are the same for every decoder. A rank has some of the heads and some of the feed-forward
layer's width. What is summed over the ranks is the output projections' and the down projections'
results, after which every rank has the whole hidden states.
"""

from dataclasses import replace
from enum import Enum, auto

import torch
from torch import Tensor

from engine_service.layers.parallel import TensorParallel
from engine_service.models.decoder_config import DecoderConfig
from folovllm.errors import ConfigError


class Cut(Enum):
    """How a tensor of a checkpoint is cut."""

    WHOLE = auto()
    """Every rank has all of it."""
    OUTPUTS = auto()
    """Dimension 0, in spans of the same size; where that takes more, zeros come last."""
    INPUTS = auto()
    """Dimension 1, which the ranks' number divides."""
    ONCE = auto()
    """The first rank has it and the others zeros: a bias of what is summed over the ranks."""


_CUTS = {
    "embed_tokens.weight": Cut.OUTPUTS,
    "lm_head.weight": Cut.OUTPUTS,
    **{
        f"{name}.{kind}": Cut.OUTPUTS
        for name in ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
        for kind in ("weight", "bias")
    },
    **{f"{name}.weight": Cut.INPUTS for name in ("o_proj", "down_proj")},
    **{f"{name}.bias": Cut.ONCE for name in ("o_proj", "down_proj")},
    **{
        f"{name}.weight": Cut.WHOLE
        for name in ("input_layernorm", "post_attention_layernorm", "q_norm", "k_norm", "norm")
    },
}


def cut_of(name: str) -> Cut:
    """How the tensor of that name in a checkpoint is cut."""
    return _CUTS[".".join(name.split(".")[-2:])]


def shard_tensor(whole: Tensor, name: str, parallel: TensorParallel) -> Tensor:
    """A rank's part of a checkpoint's tensor; a view where that can be.

    Of a tensor that lies in a file no more is read than the part.
    """
    cut = cut_of(name)
    if parallel.size == 1 or cut is Cut.WHOLE:
        return whole
    if cut is Cut.ONCE:
        return whole if parallel.rank == 0 else torch.zeros_like(whole)
    dimension = 0 if cut is Cut.OUTPUTS else 1
    size = whole.shape[dimension]
    start, end = parallel.span(size)
    part = whole.narrow(dimension, start, end - start)
    missing = parallel.each(size) - (end - start)
    if missing:
        part = torch.cat([part, whole.new_zeros(missing, *whole.shape[1:])])
    return part


def shard_config(config: DecoderConfig, parallel: TensorParallel) -> DecoderConfig:
    """The shape of a rank's part; the vocabulary's size stays that of the whole.

    Raises ConfigError, with the numbers, where the ranks cannot have the same.
    """
    size = parallel.size
    if config.num_key_value_heads < size:
        raise ConfigError(
            f"{size} ranks cannot share the model's {config.num_key_value_heads} key heads; "
            f"start at most {config.num_key_value_heads}"
        )
    shared = ("num_attention_heads", "num_key_value_heads", "intermediate_size")
    for name in shared:
        if getattr(config, name) % size:
            raise ConfigError(
                f"{size} ranks cannot share the model's {name} of {getattr(config, name)}: "
                f"it is no multiple of {size}"
            )
    return replace(config, **{name: getattr(config, name) // size for name in shared})
