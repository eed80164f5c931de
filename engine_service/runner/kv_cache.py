"""How large the KV pool is, and the pool itself."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from engine_service.config import EngineConfig
from engine_service.host_memory import FreeMemory
from engine_service.layers.attention.backend import KVCache
from engine_service.models.causal_model import CausalModel
from engine_service.models.decoder_config import DecoderConfig
from engine_service.models.model_options import ModelOptions
from engine_service.runner.device_copy import to_device
from folovllm.errors import ConfigError

_GPU_UTILIZATION = 0.9
_CPU_UTILIZATION = 0.5
_MIB = 2**20


def bytes_per_block(config: DecoderConfig, block_size: int, dtype: torch.dtype) -> int:
    """Bytes of one block: keys and values of block_size tokens in all layers."""
    per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    return per_token * block_size * dtype.itemsize


def num_blocks_that_fit(
    config: EngineConfig,
    options: ModelOptions,
    *,
    max_model_len: int,
    block_bytes: int,
    free: FreeMemory,
) -> int:
    """Blocks of this rank's pool: as configured, or the share of the free memory.

    Never more than max_num_seqs sequences of max_model_len can use. Raises ConfigError, with the
    numbers, if the memory does not hold the configured pool or one sequence of max_model_len.
    """
    cache, device = config.cache, options.device
    unclaimed = free.left - free.claimed
    others = ", or that engine's --memory-utilization" if free.claimed else ""
    rest = "the rest" if free.claimed else "that"
    if cache.num_blocks is not None:
        if cache.num_blocks * block_bytes > unclaimed:
            raise ConfigError(
                f"num_blocks {cache.num_blocks} needs {_mib(cache.num_blocks * block_bytes)} of KV "
                f"cache; {describe_free(free, device)}: lower num_blocks to at most "
                f"{unclaimed // block_bytes}{others}"
            )
        return cache.num_blocks
    share = cache.memory_utilization
    if share is None:
        share = _CPU_UTILIZATION if device.type == "cpu" else _GPU_UTILIZATION
    blocks_of_sequence = -(-max_model_len // options.block_size)
    fitting = int(unclaimed * share) // block_bytes
    if fitting < blocks_of_sequence:
        raise ConfigError(
            f"a sequence of max_model_len {max_model_len} needs "
            f"{_mib(blocks_of_sequence * block_bytes)} of KV cache; "
            f"{describe_free(free, device)}; {share:.0%} of {rest} hold "
            f"{fitting * options.block_size} tokens: lower max_model_len to that"
            f"{others or ', or free memory'}"
        )
    max_num_seqs = config.scheduler.step_size_on(device.type).max_num_seqs
    return min(fitting, max_num_seqs * blocks_of_sequence)


def describe_free(free: FreeMemory, device: torch.device) -> str:
    """Such as "cpu has 40 MiB free, of which another engine (pid 7) has planned 20 MiB"."""
    text = f"{device} has {free.left // _MIB} MiB free"
    if not free.claimed:
        return text
    plans = " and ".join(f"{claim} has planned {_mib(claim.untouched)}" for claim in free.claims)
    return f"{text}, of which {plans}"


def allocate_kv_caches(
    model: CausalModel, num_blocks: int, block_size: int, dtype: torch.dtype | None = None
) -> list[KVCache]:
    """The pool: one cache for each layer, in the model's type if no other is given.

    On a CPU a block takes memory when first written.
    """
    config = model.config
    shape = num_blocks, block_size, config.num_key_value_heads, config.head_dim
    return [
        model.backend.allocate(shape, dtype or model.dtype, model.device)
        for _ in range(config.num_hidden_layers)
    ]


def copy_blocks(kv_caches: Sequence[KVCache], block_copies: Sequence[tuple[int, int]]) -> None:
    """Copies whole blocks, (source, target) ids, in all layers and as if in the order given."""
    for copies in _at_once(block_copies):
        device = kv_caches[0].key.device
        sources, targets = to_device(np.array(copies, dtype=np.int64).T.copy(), device).unbind()
        for cache in kv_caches:
            for tensor in cache[:2]:
                # Few operators support 8-bit floats.
                blocks = tensor.view(torch.uint8) if tensor.dtype.itemsize == 1 else tensor
                blocks[targets] = blocks[sources]


def _at_once(block_copies: Sequence[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """The copies in groups in which none reads or writes what another has written."""
    group: list[tuple[int, int]] = []
    written: set[int] = set()
    for source, target in block_copies:
        if written & {source, target}:
            yield group
            group, written = [], set()
        group.append((source, target))
        written.add(target)
    if group:
        yield group


def _mib(num_bytes: int) -> str:
    return f"{-(-num_bytes // _MIB)} MiB"
