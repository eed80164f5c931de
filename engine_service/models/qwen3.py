"""The decoder of Qwen3, and of Qwen2 and Llama, which differ from it by flags of the config.

Parameters are made on the meta device; `allocate` gives them memory and the loader fills them
through `weights`, which names each one as checkpoints do.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine_service.layers.attention import AttentionBackend, AttentionMetadata, KVCache
from engine_service.layers.norm import RMSNorm
from engine_service.layers.rotary import Angles, RotaryEmbedding, rotate
from engine_service.models.decoder_config import DecoderConfig

NamedWeights = Iterator[tuple[str, Tensor]]
"""Names of a checkpoint's tensors, each with the parameter, or slice of one, that it fills."""


def _linear(inputs: int, outputs: int, bias: bool, dtype: torch.dtype) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=bias, dtype=dtype, device="meta").requires_grad_(False)


def _linear_weights(linear: nn.Linear, prefix: str, parts: dict[str, int]) -> NamedWeights:
    """Splits a fused projection into the checkpoint's parts, given as names and output sizes."""
    start = 0
    for name, size in parts.items():
        yield f"{prefix}{name}.weight", linear.weight[start : start + size]
        if linear.bias is not None:
            yield f"{prefix}{name}.bias", linear.bias[start : start + size]
        start += size


class Attention(nn.Module):
    """Grouped-query self-attention over the paged cache, with rotary positions."""

    def __init__(
        self, config: DecoderConfig, backend: AttentionBackend, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self._backend = backend
        self._head_dim = config.head_dim
        self._heads = config.num_attention_heads
        self._kv_heads = config.num_key_value_heads
        self._query_size = self._heads * self._head_dim
        self._kv_size = self._kv_heads * self._head_dim
        self.qkv_proj = _linear(
            config.hidden_size, self._query_size + 2 * self._kv_size, config.qkv_bias, dtype
        )
        self.o_proj = _linear(self._query_size, config.hidden_size, config.o_bias, dtype)
        self.q_norm = self.k_norm = None
        if config.qk_norm:
            self.q_norm = RMSNorm(self._head_dim, config.rms_norm_eps, dtype)
            self.k_norm = RMSNorm(self._head_dim, config.rms_norm_eps, dtype)

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
        output: Tensor = self.o_proj(mixed.flatten(1))
        return output

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

    def __init__(self, config: DecoderConfig, dtype: torch.dtype) -> None:
        super().__init__()
        size = config.intermediate_size
        self.gate_up_proj = _linear(config.hidden_size, 2 * size, config.mlp_bias, dtype)
        self.down_proj = _linear(size, config.hidden_size, config.mlp_bias, dtype)

    def forward(self, hidden: Tensor) -> Tensor:
        """[T, hidden_size] -> [T, hidden_size]."""
        gate, up = self.gate_up_proj(hidden).chunk(2, dim=-1)
        output: Tensor = self.down_proj(functional.silu(gate) * up)
        return output

    def weights(self, prefix: str) -> NamedWeights:
        """Names the parameters as checkpoints do."""
        size = self.down_proj.in_features
        yield from _linear_weights(self.gate_up_proj, prefix, {"gate_proj": size, "up_proj": size})
        outputs = self.down_proj.out_features
        yield from _linear_weights(self.down_proj, prefix, {"down_proj": outputs})


class DecoderLayer(nn.Module):
    """Attention and feed-forward, each behind a norm and added to the residual stream."""

    def __init__(
        self, config: DecoderConfig, backend: AttentionBackend, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype)
        self.self_attn = Attention(config, backend, dtype)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype)
        self.mlp = MLP(config, dtype)

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

    def __init__(
        self,
        config: DecoderConfig,
        backend: AttentionBackend,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.config, self.backend, self.dtype, self.device = config, backend, dtype, device
        self.rotary = RotaryEmbedding(config.rope, config.head_dim, device)
        self.embed_tokens = nn.Parameter(
            torch.empty(config.vocab_size, config.hidden_size, dtype=dtype, device="meta"),
            requires_grad=False,
        )
        self.layers = nn.ModuleList(
            DecoderLayer(config, backend, dtype) for _ in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype)
        self.lm_head = None
        if not config.tie_word_embeddings:
            self.lm_head = _linear(config.hidden_size, config.vocab_size, False, dtype)

    def allocate(self) -> None:
        """Gives every parameter memory on the model's device, its content undefined."""
        self.to_empty(device=self.device)

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor,
        kv_caches: Sequence[KVCache],
        metadata: AttentionMetadata,
    ) -> Tensor:
        """Token ids and positions [T] -> hidden states [T, hidden_size] after the last norm.

        Writes the tokens' KV to `kv_caches`, one for each layer.
        """
        plan = self.backend.plan(metadata, self.config.num_key_value_heads)
        angles = self.rotary.angles(positions, self.dtype)
        hidden = functional.embedding(input_ids, self.embed_tokens)
        for layer, cache in zip(self.layers, kv_caches, strict=True):
            hidden = layer(hidden, angles, cache, plan)
        output: Tensor = self.norm(hidden)
        return output

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """[S, hidden_size] -> [S, vocab_size], in the model's dtype."""
        head = self.embed_tokens if self.lm_head is None else self.lm_head.weight
        return functional.linear(hidden, head)

    def weights(self) -> NamedWeights:
        """Names every parameter as checkpoints do, each with the tensor that the loader fills."""
        yield "model.embed_tokens.weight", self.embed_tokens
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, DecoderLayer)
            yield from layer.weights(f"model.layers.{index}.")
        yield "model.norm.weight", self.norm.weight
        if self.lm_head is not None:
            yield "lm_head.weight", self.lm_head.weight
