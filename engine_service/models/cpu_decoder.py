"""CpuDecoder: a decoder of pre-norm layers in bfloat16, computed by the CPU kernels.

A step is one call for all layers. It differs from the plain decoder in rounding alone: an operator
of the kernels keeps what it computes in several steps in float32. A row's result does not depend on
what is computed beside it, to the last bit.
"""

import ctypes
from collections.abc import Sequence

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
from engine_service.models.cpu_weights import CpuWeights, ReadTensor, address, projections
from engine_service.models.decoder_config import DecoderConfig
from engine_service.models.layer_plan import (
    Attention,
    Op,
    Projection,
    not_pre_norm,
    unknown_flag,
)
from engine_service.models.model_options import ModelOptions

_FLAGS = frozenset({"bias", "q_norm", "k_norm"})
_LANES = 32
_BLOCK_STEP = 16
_MAX_GROUP = 16
_MAX_HEAD_DIM = 256
_QUERIES_OF_TASK = 32
_TASKS_OF_THREAD = 8
_ALL = -1
# Angles are computed for so many positions at a time: one shape, so the bits are always the same.
_POSITIONS = 1024


def obstacle(config: DecoderConfig, options: ModelOptions) -> str | None:
    """Why the kernels do not compute a model so, in words; None if they do."""
    if unknown := not_pre_norm(config.plan) or unknown_flag(config.plan, _FLAGS):
        return f"the CPU kernels do not compute {unknown}"
    inputs = (packed.projection.inputs for packed in projections(config.plan, "none"))
    attention, block_size = config.plan.attention, options.block_size
    on_cpu = options.device.type == "cpu" and options.dtype is torch.bfloat16
    limits = (
        (on_cpu, "compute in bfloat16 on a CPU alone"),
        (options.parallel.size == 1, "are for one rank"),
        (options.cache_dtype == "auto", f"have no {options.cache_dtype} KV cache"),
        (not any(size % _LANES for size in inputs), f"take sizes in multiples of {_LANES}"),
        (attention.head_dim % _LANES == 0, f"take heads in multiples of {_LANES} elements"),
        (attention.head_dim <= _MAX_HEAD_DIM, f"take heads of up to {_MAX_HEAD_DIM} elements"),
        (
            attention.num_heads <= _MAX_GROUP * attention.num_kv_heads,
            f"take up to {_MAX_GROUP} heads for each key head",
        ),
        (block_size % _BLOCK_STEP == 0, f"take a block_size in multiples of {_BLOCK_STEP}"),
    )
    return next((f"the CPU kernels {limit}" for fits, limit in limits if not fits), None)


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
        """For a model without `obstacle`. `embedding` is [vocab_size, hidden_size] in any type;
        `read` reads the norms' weights."""
        self.config = config
        self._context = context
        self._weights = weights
        self._embedding = embedding
        self._angles = _AngleTable(config)
        self._logits = torch.empty(0, config.vocab_size, dtype=self.dtype)
        self._norms: dict[str, Tensor] = {}
        self._final_norm = self._norm(config.plan.norm, "", read)
        ops = config.plan.numbered()
        layers = [self._layer(layer, read) for layer in zip(*[ops] * 4, strict=True)]
        self._layers = (structures.Layer * len(layers))(*layers)
        self._head = weights[(config.plan.head or config.plan.embedding).name]
        self._num_kv_heads = config.num_key_value_heads
        # Rows of another type are converted by torch before the step.
        self._embeds = embedding.dtype is self.dtype
        self._decoder = structures.Decoder(
            embedding=embedding.data_ptr() if self._embeds else None,
            layers=self._layers,
            num_layers=len(layers),
            hidden_size=config.hidden_size,
            shape=AttentionShape(config.num_attention_heads, self._num_kv_heads, config.head_dim),
            eps=config.rms_norm_eps,
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
        if self._embeds:
            hidden = torch.empty(len(input_ids), self._decoder.hidden_size, dtype=self.dtype)
        else:
            hidden = functional.embedding(input_ids, self._embedding).to(self.dtype)
        for layer, cache in zip(self._layers, kv_caches, strict=True):
            layer.keys, layer.values = cache.key.data_ptr(), cache.value.data_ptr()
        cos, sin = self._angles.up_to(max(metadata.seq_lens))
        starts = np.array(metadata.query_start_loc, dtype=np.int64)
        tasks = self._tasks(metadata)
        step = AttentionStep(
            query_start_loc=starts.ctypes.data,
            seq_lens=metadata.seq_lens_tensor.data_ptr(),
            block_tables=metadata.block_tables.data_ptr(),
            slots=metadata.slot_mapping.data_ptr(),
            positions=positions.data_ptr(),
            cos=cos.data_ptr(),
            sin=sin.data_ptr(),
            tasks=tasks.ctypes.data,
            num_seqs=len(metadata.seq_lens),
            table_width=metadata.block_tables.shape[1],
            num_tasks=len(tasks),
        )
        self._decoder.shape.block_size = metadata.block_size
        if output_rows is not None and len(output_rows) == len(input_ids):
            output_rows = None
        tokens = structures.Tokens(
            input_ids.data_ptr() if self._embeds else None,
            address(output_rows),
            _ALL if output_rows is None else len(output_rows),
            hidden.data_ptr(),
        )
        self.elapsed = self._context.decode(self._decoder, step, tokens)
        return hidden

    def compute_logits(self, hidden: Tensor, rows: Tensor | None = None) -> Tensor:
        """See CausalModel."""
        count = len(hidden if rows is None else rows)
        if len(self._logits) < count:
            # Kept, since memory of this size would be mapped anew at every step.
            self._logits = torch.empty(count, self.config.vocab_size, dtype=self.dtype)
        logits = self._logits[:count]
        call = LinearCall(
            rows=hidden.data_ptr(),
            indexes=address(rows),
            norm_weight=self._final_norm,
            residual=None,
            output=logits.data_ptr(),
            num_rows=count,
            row_stride=self._decoder.hidden_size,
            eps=self._decoder.eps,
        )
        self._context.linear(self._head, call)
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

    def _layer(self, ops: Sequence[tuple[str, Op]], read: ReadTensor) -> structures.Layer:
        prefix = ops[0][0]
        input_norm, attention, post_attention_norm, mlp = (op for _, op in ops)
        assert isinstance(attention, Attention)
        inner = f"{prefix}{attention.name}."
        weights = {
            field: ctypes.pointer(self._weights[f"{prefix}{op.name}.{projection.name}"])
            for op in (attention, mlp)
            for field, projection in op.children()
            if isinstance(projection, Projection)
        }
        return structures.Layer(
            qkv_proj=weights["qkv"],
            o_proj=weights["output"],
            gate_up_proj=weights["gate_up"],
            down_proj=weights["down"],
            input_norm=self._norm(input_norm, prefix, read),
            q_norm=self._norm(attention.q_norm, inner, read),
            k_norm=self._norm(attention.k_norm, inner, read),
            post_attention_norm=self._norm(post_attention_norm, prefix, read),
        )

    def _norm(self, norm: Op | None, prefix: str, read: ReadTensor) -> int | None:
        """The address of its weight in bfloat16, which is kept."""
        if norm is None:
            return None
        (weight,) = norm.weights(prefix)
        self._norms[weight.name] = tensor = read(weight.name).to(self.dtype).clone()
        return tensor.data_ptr()

    def _tasks(self, metadata: AttentionMetadata) -> np.ndarray:
        """Sequence, first key head, heads and first query of each task, roughly longest first.

        A task has as many heads as leave enough tasks to keep the threads busy: it prefetches what
        it reads next, so more tasks mean more ends at which nothing is prefetched.
        """
        starts, num_heads = metadata.query_start_loc, self._num_kv_heads
        queries = [
            (metadata.seq_lens[row] - starts[row + 1] + starts[row] + query, row, query)
            for row in range(len(metadata.seq_lens))
            for query in range(0, starts[row + 1] - starts[row], _QUERIES_OF_TASK)
        ]
        queries.sort(reverse=True)
        enough = _TASKS_OF_THREAD * self._context.num_threads
        heads_of_task = num_heads
        while heads_of_task % 2 == 0 and len(queries) * num_heads < enough * heads_of_task:
            heads_of_task //= 2
        tasks = np.empty((len(queries), num_heads // heads_of_task, 4), dtype=np.int64)
        tasks[:, :, 1] = range(0, num_heads, heads_of_task)
        tasks[:, :, 2] = heads_of_task
        tasks[:, :, 0::3] = np.array(queries, dtype=np.int64)[:, None, 1:]
        return tasks.reshape(-1, 4)


class _AngleTable:
    """cos and sin of every position so far, each [positions, head_dim / 2] in float32."""

    def __init__(self, config: DecoderConfig) -> None:
        self._rotary = RotaryEmbedding(config.rope, config.head_dim, torch.device("cpu"))
        self._half = config.head_dim // 2
        self._cos = self._sin = torch.empty(0, self._half)

    def up_to(self, num_positions: int) -> tuple[Tensor, Tensor]:
        """Those of at least `num_positions`."""
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
