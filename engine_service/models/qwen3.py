"""The decoder of Qwen3, and of Qwen2 and Llama, which differ from it by flags of the config.

Parameters are made on the meta device; `allocate` gives them memory and the loader fills them
through `weights`, which names each one as checkpoints do. Where several ranks share a model, each
has a decoder of its part, as `sharding.py` cuts it, and they sum and gather what they compute.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from engine_service.layers.attention.backend import AttentionBackend, AttentionMetadata, KVCache
from engine_service.layers.linear.linear import Linear, Packing
from engine_service.layers.linear.row_operators import FASTEST_OPERATORS, RowOperators
from engine_service.layers.norm import RMSNorm
from engine_service.layers.parallel import SINGLE, TensorParallel
from engine_service.layers.rotary import Angles, RotaryEmbedding, rotate
from engine_service.layers.vocabulary import embed, gather_logits
from engine_service.models.decoder_config import DecoderConfig

NamedWeights = Iterator[tuple[str, Tensor]]
"""Names of a checkpoint's tensors, each with the parameter, or slice of one, that it fills."""

# Each has threads of torch's own for a while.
_PACKING_THREADS = 4


@dataclass(frozen=True, slots=True)
class Parts:
    """What every layer is made with."""

    backend: AttentionBackend
    operators: RowOperators
    dtype: torch.dtype
    parallel: TensorParallel

    def linear(self, inputs: int, outputs: int, bias: bool) -> Linear:
        """A projection; its weights are on the meta device."""
        return Linear(inputs, outputs, bias, self.dtype, self.operators.linear)

    def norm(self, size: int, eps: float) -> RMSNorm:
        """A norm; its weight is on the meta device."""
        return self.operators.norm(size, eps, self.dtype)


def _linear_weights(linear: Linear, prefix: str, parts: dict[str, int]) -> NamedWeights:
    """Splits a fused projection into the checkpoint's parts, given as names and output sizes."""
    start = 0
    for name, size in parts.items():
        yield f"{prefix}{name}.weight", linear.weight[start : start + size]
        if linear.bias is not None:
            yield f"{prefix}{name}.bias", linear.bias[start : start + size]
        start += size


class Attention(nn.Module):
    """Grouped-query self-attention over the paged cache, with rotary positions."""

    def __init__(self, config: DecoderConfig, parts: Parts) -> None:
        super().__init__()
        self._backend = parts.backend
        self._parallel = parts.parallel
        self._head_dim = config.head_dim
        self._heads = config.num_attention_heads
        self._kv_heads = config.num_key_value_heads
        self._query_size = self._heads * self._head_dim
        self._kv_size = self._kv_heads * self._head_dim
        self.qkv_proj = parts.linear(
            config.hidden_size, self._query_size + 2 * self._kv_size, config.qkv_bias
        )
        self.o_proj = parts.linear(self._query_size, config.hidden_size, config.o_bias)
        self.q_norm = self.k_norm = None
        if config.qk_norm:
            self.q_norm = parts.norm(self._head_dim, config.rms_norm_eps)
            self.k_norm = parts.norm(self._head_dim, config.rms_norm_eps)

    def forward(self, hidden: Tensor, angles: Angles, cache: KVCache, plan: Any) -> Tensor:
        """[T, hidden_size] -> [T, hidden_size]; writes the tokens' KV first."""
        qkv: Tensor = self.qkv_proj(hidden)
        heads = qkv.view(-1, self._heads + 2 * self._kv_heads, self._head_dim)
        query, key, value = torch.split(heads, [self._heads, self._kv_heads, self._kv_heads], dim=1)
        if self.q_norm is not None and self.k_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        query, key = rotate(query, angles), rotate(key, angles)
        self._backend.write(key, value, cache, plan)
        mixed = self._backend.forward(query, key, value, cache, plan)
        return self._parallel.all_reduce(self.o_proj(mixed.flatten(1)))

    def weights(self, prefix: str) -> NamedWeights:
        """Names the parameters as checkpoints do."""
        kv_size = self._kv_size
        parts = {"q_proj": self._query_size, "k_proj": kv_size, "v_proj": kv_size}
        yield from _linear_weights(self.qkv_proj, prefix, parts)
        yield from _linear_weights(self.o_proj, prefix, {"o_proj": self.o_proj.out_features})
        if self.q_norm is not None and self.k_norm is not None:
            yield f"{prefix}q_norm.weight", self.q_norm.weight
            yield f"{prefix}k_norm.weight", self.k_norm.weight


class MLP(nn.Module):
    """The SwiGLU feed-forward layer (Shazeer, 2020)."""

    def __init__(self, config: DecoderConfig, parts: Parts) -> None:
        super().__init__()
        size = config.intermediate_size
        self._silu = parts.operators.silu
        self._parallel = parts.parallel
        self.gate_up_proj = parts.linear(config.hidden_size, 2 * size, config.mlp_bias)
        self.down_proj = parts.linear(size, config.hidden_size, config.mlp_bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """[T, hidden_size] -> [T, hidden_size]."""
        gate, up = self.gate_up_proj(hidden).chunk(2, dim=-1)
        return self._parallel.all_reduce(self.down_proj(self._silu(gate) * up))

    def weights(self, prefix: str) -> NamedWeights:
        """Names the parameters as checkpoints do."""
        size = self.down_proj.in_features
        yield from _linear_weights(self.gate_up_proj, prefix, {"gate_proj": size, "up_proj": size})
        outputs = self.down_proj.out_features
        yield from _linear_weights(self.down_proj, prefix, {"down_proj": outputs})


class DecoderLayer(nn.Module):
    """Attention and feed-forward, each behind a norm and added to the residual stream."""

    def __init__(self, config: DecoderConfig, parts: Parts) -> None:
        super().__init__()
        self.input_layernorm = parts.norm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, parts)
        self.post_attention_layernorm = parts.norm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config, parts)

    def forward(self, hidden: Tensor, angles: Angles, cache: KVCache, plan: Any) -> Tensor:
        """[T, hidden_size] -> [T, hidden_size]."""
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), angles, cache, plan)
        output: Tensor = hidden + self.mlp(self.post_attention_layernorm(hidden))
        return output

    def weights(self, prefix: str) -> NamedWeights:
        """Names the parameters as checkpoints do."""
        yield f"{prefix}input_layernorm.weight", self.input_layernorm.weight
        yield from self.self_attn.weights(f"{prefix}self_attn.")
        yield f"{prefix}post_attention_layernorm.weight", self.post_attention_layernorm.weight
        yield from self.mlp.weights(f"{prefix}mlp.")


class Decoder(nn.Module):
    """Token ids to hidden states to logits. `allocate` and load it before use."""

    kernels = "torch"

    def __init__(
        self,
        config: DecoderConfig,
        backend: AttentionBackend,
        dtype: torch.dtype,
        device: torch.device,
        operators: RowOperators = FASTEST_OPERATORS,
        parallel: TensorParallel = SINGLE,
    ) -> None:
        """`config` is that of the rank's part: see `shard_config`."""
        super().__init__()
        self.config, self.backend, self.dtype, self.device = config, backend, dtype, device
        parts = Parts(backend, operators, dtype, parallel)
        self._parts, self.parallel = parts, parallel
        self.rotary = RotaryEmbedding(config.rope, config.head_dim, device)
        self._vocab_rows = parallel.each(config.vocab_size)
        self.embed_tokens = nn.Parameter(
            torch.empty(self._vocab_rows, config.hidden_size, dtype=dtype, device="meta"),
            requires_grad=False,
        )
        self.layers = nn.ModuleList(
            DecoderLayer(config, parts) for _ in range(config.num_hidden_layers)
        )
        self.norm = parts.norm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = None
        if not config.tie_word_embeddings:
            self.lm_head = parts.linear(config.hidden_size, self._vocab_rows, False)
        self.num_parameters = sum(parameter.numel() for parameter in self.parameters())

    def allocate(self) -> None:
        """Gives every parameter memory on the model's device, its content undefined."""
        # Not `to_empty`, for which torch imports some hundred modules.
        self._apply(  # type: ignore[no-untyped-call]
            lambda each: torch.empty(each.shape, dtype=each.dtype, device=self.device)
        )

    def pack(self, packing: Packing, head_packing: Packing) -> None:
        """Puts packed forms in the place of all filled projections; a tied embedding gives a head.

        Each is work for one thread, so several are packed at once, the largest first. The
        embedding's own rows stay.
        """
        if self.lm_head is None:
            self.lm_head = self._parts.linear(self.config.hidden_size, self._vocab_rows, False)
            self.lm_head.weight = nn.Parameter(
                self.embed_tokens.to(self.dtype), requires_grad=False
            )
        linears = [module for module in self.modules() if isinstance(module, Linear)]
        linears.sort(key=lambda linear: -linear.weight.numel())

        def pack(linear: Linear) -> None:
            linear.pack(head_packing if linear is self.lm_head else packing)

        with ThreadPoolExecutor(min(_PACKING_THREADS, torch.get_num_threads())) as threads:
            list(threads.map(pack, linears))

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor,
        kv_caches: Sequence[KVCache],
        metadata: AttentionMetadata,
        output_rows: Tensor | None = None,
    ) -> Tensor:
        """See CausalModel. Hidden states are those after the last norm, of all rows."""
        plan = self.backend.plan(metadata, self.config.num_key_value_heads)
        angles = self.rotary.angles(positions, self.dtype)
        hidden = embed(input_ids, self.embed_tokens, self.dtype, self._parts.parallel)
        for layer, cache in zip(self.layers, kv_caches, strict=True):
            hidden = layer(hidden, angles, cache, plan)
        output: Tensor = self.norm(hidden)
        return output

    def compute_logits(self, hidden: Tensor, rows: Tensor | None = None) -> Tensor:
        """See CausalModel. In the model's dtype."""
        if rows is not None:
            hidden = hidden[rows]
        if self.lm_head is None:
            logits = self._parts.operators.linear(hidden, self.embed_tokens, None)
        else:
            logits = self.lm_head(hidden)
        return gather_logits(logits, self.config.vocab_size, self._parts.parallel)

    def argmax(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """See CausalModel."""
        return torch.max(logits, dim=-1)

    def weights(self) -> NamedWeights:
        """Names every parameter as checkpoints do, each with the tensor that the loader fills.

        There are none of projections once they are packed.
        """
        yield "model.embed_tokens.weight", self.embed_tokens
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, DecoderLayer)
            yield from layer.weights(f"model.layers.{index}.")
        yield "model.norm.weight", self.norm.weight
        if self.lm_head is not None:
            yield "lm_head.weight", self.lm_head.weight
