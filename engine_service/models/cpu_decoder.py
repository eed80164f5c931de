"""CpuDecoder: the decoder of qwen3.py in bfloat16, computed by the CPU kernels.

A step is one call for all layers. It differs from the plain decoder in rounding alone: what an
operator of the kernels computes in several steps stays in float32 between them. A row's result does
not depend on what is computed beside it, to the last bit.
"""

import ctypes
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from engine_service.kernels.cpu import structures
from engine_service.kernels.cpu.library import Context
from engine_service.kernels.cpu.structures import AttentionShape, AttentionStep, LinearCall
from engine_service.layers.attention.backend import AttentionMetadata, KVCache
from engine_service.layers.attention.paged_cache import PagedCache
from engine_service.layers.rotary import RotaryEmbedding
from engine_service.models.cpu_weights import CpuWeights, ReadTensor, address
from engine_service.models.decoder_config import DecoderConfig

# What the kernels take: multiples of sizes, and the most of some.
_LANES = 32
_KEYS_OF_VECTOR = 16
_MOST_GROUP = 16
_MOST_HEAD_DIM = 256
_QUERIES_OF_TASK = 32
_TASKS_OF_THREAD = 8
_ALL = -1
# Positions whose angles are computed together: one shape, so that each gets the same bits always.
_POSITIONS = 1024


def fits_kernels(config: DecoderConfig, block_size: int) -> bool:
    """Whether the kernels compute this shape, with KV blocks of so many tokens."""
    sizes = (
        config.hidden_size,
        config.intermediate_size,
        config.num_attention_heads * config.head_dim,
        config.head_dim,
    )
    return (
        all(size % _LANES == 0 for size in sizes)
        and config.head_dim <= _MOST_HEAD_DIM
        and config.num_attention_heads <= _MOST_GROUP * config.num_key_value_heads
        and block_size % _KEYS_OF_VECTOR == 0
    )


class CpuDecoder:
    """A CausalModel. Its KV cache is laid out as attention.cpp says."""

    kernels = "cpu"
    dtype = torch.bfloat16
    device = torch.device("cpu")
    backend = PagedCache()

    def __init__(
        self,
        config: DecoderConfig,
        context: Context,
        weights: CpuWeights,
        embedding: Tensor,
        read: ReadTensor,
    ) -> None:
        """`embedding` is [vocab_size, hidden_size] in any type; `read` gives the norms' weights."""
        self.config = config
        self._context = context
        self._weights = weights
        self._embedding = embedding
        self._angles = _AngleTable(config)
        self._logits = torch.empty(0, config.vocab_size, dtype=self.dtype)
        self._norms = {
            name: read(f"{name}.weight").to(self.dtype).clone() for name in _norm_names(config)
        }
        self._layers = (structures.Layer * config.num_hidden_layers)(
            *(self._layer(index) for index in range(config.num_hidden_layers))
        )
        self.elapsed = structures.Elapsed()
        """Nanoseconds of the latest step by its parts."""

    def __call__(
        self,
        input_ids: Tensor,
        positions: Tensor,
        kv_caches: Sequence[KVCache],
        metadata: AttentionMetadata,
        output_rows: Tensor | None = None,
    ) -> Tensor:
        """See CausalModel. The hidden states are those before the last norm."""
        # Read where it lies: operators of torch have threads of their own, which get in the way.
        embedding = self._embedding if self._embedding.dtype is self.dtype else None
        if embedding is not None:
            hidden = torch.empty(len(input_ids), self.config.hidden_size, dtype=self.dtype)
        else:
            hidden = functional.embedding(input_ids, self._embedding).to(self.dtype)
        for layer, cache in zip(self._layers, kv_caches, strict=True):
            layer.keys, layer.values = cache.key.data_ptr(), cache.value.data_ptr()
        cos, sin = self._angles.up_to(max(metadata.seq_lens))
        starts = np.array(metadata.query_start_loc, dtype=np.int64)
        tasks = self._tasks(metadata)
        step = AttentionStep(
            starts.ctypes.data,
            metadata.seq_lens_tensor.data_ptr(),
            metadata.block_tables.data_ptr(),
            metadata.slot_mapping.data_ptr(),
            positions.data_ptr(),
            cos.data_ptr(),
            sin.data_ptr(),
            tasks.ctypes.data,
            len(metadata.seq_lens),
            metadata.block_tables.shape[1],
            len(tasks),
        )
        config = self.config
        decoder = structures.Decoder(
            address(embedding),
            self._layers,
            len(self._layers),
            config.hidden_size,
            AttentionShape(
                config.num_attention_heads,
                config.num_key_value_heads,
                config.head_dim,
                metadata.block_size,
            ),
            config.rms_norm_eps,
        )
        if output_rows is not None and len(output_rows) == len(input_ids):
            output_rows = None
        tokens = structures.Tokens(
            None if embedding is None else input_ids.data_ptr(),
            address(output_rows),
            _ALL if output_rows is None else len(output_rows),
            hidden.data_ptr(),
        )
        self.elapsed = self._context.decode(decoder, step, tokens)
        return hidden

    def compute_logits(self, hidden: Tensor, rows: Tensor | None = None) -> Tensor:
        """See CausalModel."""
        count = len(hidden if rows is None else rows)
        if len(self._logits) < count:
            # Kept: memory of this size that came and went would be mapped anew at every step.
            self._logits = torch.empty(count, self.config.vocab_size, dtype=self.dtype)
        logits = self._logits[:count]
        call = LinearCall(
            hidden.data_ptr(),
            address(rows),
            address(self._norms["model.norm"]),
            None,
            logits.data_ptr(),
            count,
            self.config.hidden_size,
            self.config.rms_norm_eps,
        )
        self._context.linear(self._weights["lm_head"], call)
        return logits

    def argmax(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """See CausalModel."""
        if logits.dtype is not self.dtype or not logits.is_contiguous():
            return torch.max(logits, dim=-1)
        num_rows, num_columns = logits.shape
        values, token_ids = torch.empty(num_rows), torch.empty(num_rows, dtype=torch.int64)
        self._context.argmax(
            logits.data_ptr(), num_rows, num_columns, values.data_ptr(), token_ids.data_ptr()
        )
        return values, token_ids

    def _layer(self, index: int) -> structures.Layer:
        prefix = f"model.layers.{index}."

        def norm(name: str) -> int | None:
            return address(self._norms.get(f"{prefix}{name}"))

        def weight(name: str) -> "ctypes._Pointer[structures.LinearWeight]":
            return ctypes.pointer(self._weights[f"{prefix}{name}"])

        return structures.Layer(
            weight("self_attn.qkv_proj"),
            weight("self_attn.o_proj"),
            weight("mlp.gate_up_proj"),
            weight("mlp.down_proj"),
            norm("input_layernorm"),
            norm("self_attn.q_norm"),
            norm("self_attn.k_norm"),
            norm("post_attention_layernorm"),
            None,
            None,
        )

    def _tasks(self, metadata: AttentionMetadata) -> np.ndarray:
        """Sequence, first key head, heads and first query of each task; the longest about first.

        A task has as many heads as leave enough tasks to keep the threads busy: what it reads next
        is fetched while it computes, and where it ends there is nothing to fetch.
        """
        starts, num_heads = metadata.query_start_loc, self.config.num_key_value_heads
        places = [
            (metadata.seq_lens[row] - starts[row + 1] + starts[row] + query, row, query)
            for row in range(len(metadata.seq_lens))
            for query in range(0, starts[row + 1] - starts[row], _QUERIES_OF_TASK)
        ]
        places.sort(reverse=True)
        enough = _TASKS_OF_THREAD * self._context.num_threads
        heads_of_task = num_heads
        while heads_of_task % 2 == 0 and len(places) * num_heads < enough * heads_of_task:
            heads_of_task //= 2
        tasks = np.empty((len(places), num_heads // heads_of_task, 4), dtype=np.int64)
        tasks[:, :, 1] = range(0, num_heads, heads_of_task)
        tasks[:, :, 2] = heads_of_task
        tasks[:, :, 0::3] = np.array(places, dtype=np.int64)[:, None, 1:]
        return tasks.reshape(-1, 4)


def _norm_names(config: DecoderConfig) -> Iterator[str]:
    """Of all norms, as checkpoints name them."""
    heads = ("self_attn.q_norm", "self_attn.k_norm") if config.qk_norm else ()
    for index in range(config.num_hidden_layers):
        for name in ("input_layernorm", *heads, "post_attention_layernorm"):
            yield f"model.layers.{index}.{name}"
    yield "model.norm"


class _AngleTable:
    """cos and sin of every position so far, each [positions, head_dim / 2] in float32."""

    def __init__(self, config: DecoderConfig) -> None:
        self._rotary = RotaryEmbedding(config.rope, config.head_dim, torch.device("cpu"))
        self._half = config.head_dim // 2
        self._cos = self._sin = torch.empty(0, self._half)

    def up_to(self, num_positions: int) -> tuple[Tensor, Tensor]:
        """Those of at least so many positions."""
        parts = []
        for start in range(len(self._cos), num_positions, _POSITIONS):
            positions = torch.arange(start, start + _POSITIONS)
            cos, sin = self._rotary.angles(positions, torch.float32)
            # The second halves: there, sin has its own sign.
            parts.append((cos[:, 0, self._half :], sin[:, 0, self._half :]))
        if parts:
            self._cos = torch.cat((self._cos, *(cos for cos, _ in parts)))
            self._sin = torch.cat((self._sin, *(sin for _, sin in parts)))
        return self._cos, self._sin
