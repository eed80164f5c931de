"""Qwen3 for training on a CPU: transformers' parameters, a leaner forward pass in bfloat16.

The parameters stay float32 and belong to transformers' model; here they are only used. The
result equals transformers' own up to rounding. Attention is written out: on a CPU, for rows
this short, that is more than twice as quick as the fused operator with its backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional
from transformers import Qwen3ForCausalLM

from tools.demo_model.packing import Batch


class Network:
    """A forward pass over packed rows, to the loss of the learned tokens."""

    def __init__(self, model: Qwen3ForCausalLM) -> None:
        config: Any = model.config
        self._model = model
        self._heads = config.num_attention_heads
        self._kv_heads = config.num_key_value_heads
        self._eps = config.rms_norm_eps
        exponents = torch.arange(0, config.head_dim, 2) / config.head_dim
        self._frequencies = 1.0 / (config.rope_parameters["rope_theta"] ** exponents)

    def loss(self, batch: Batch) -> torch.Tensor:
        """The summed cross-entropy of the batch's learned tokens."""
        inner = self._model.model
        angles = batch.position_ids[:, None, :, None] * self._frequencies
        rotation = angles.cos().bfloat16(), angles.sin().bfloat16()
        hidden_from = (~batch.attention_mask * -1e9).bfloat16()
        embedding = inner.embed_tokens.weight
        x = functional.embedding(batch.input_ids, embedding)
        for layer in inner.layers:
            mixed = self._attention(
                layer.self_attn, self._norm(x, layer.input_layernorm), rotation, hidden_from
            )
            x = x + mixed
            x = x + _mlp(layer.mlp, self._norm(x, layer.post_attention_layernorm))
        chosen = batch.targets >= 0
        logits = functional.linear(self._norm(x[chosen], inner.norm), embedding.bfloat16())
        return functional.cross_entropy(logits.float(), batch.targets[chosen], reduction="sum")

    def _attention(
        self,
        layer: Any,
        x: torch.Tensor,
        rotation: tuple[torch.Tensor, torch.Tensor],
        hidden_from: torch.Tensor,
    ) -> torch.Tensor:
        rows, width, _ = x.shape
        projections = [layer.q_proj, layer.k_proj, layer.v_proj]
        joined = torch.cat([projection.weight for projection in projections]).bfloat16()
        mixed = functional.linear(x, joined)
        mixed = mixed.view(rows, width, self._heads + 2 * self._kv_heads, -1).transpose(1, 2)
        q, k, v = mixed.tensor_split([self._heads, self._heads + self._kv_heads], dim=1)
        group = self._heads // self._kv_heads
        q = _rotate(self._norm(q, layer.q_norm), *rotation)
        k = _rotate(self._norm(k, layer.k_norm), *rotation).repeat_interleave(group, dim=1)
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + hidden_from
        values = torch.softmax(scores, -1) @ v.repeat_interleave(group, dim=1)
        return functional.linear(values.transpose(1, 2).flatten(2), layer.o_proj.weight.bfloat16())

    def _norm(self, x: torch.Tensor, norm: Any) -> torch.Tensor:
        """Root-mean-square norm, worked out in float32."""
        x = x.float()
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self._eps)
        weight: torch.Tensor = norm.weight
        return (x * scale * weight).bfloat16()


def _mlp(layer: Any, x: torch.Tensor) -> torch.Tensor:
    joined = torch.cat([layer.gate_proj.weight, layer.up_proj.weight]).bfloat16()
    gate, up = functional.linear(x, joined).chunk(2, dim=-1)
    return functional.linear(functional.silu(gate) * up, layer.down_proj.weight.bfloat16())


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding, in Qwen's halves."""
    left, right = x.chunk(2, dim=-1)
    return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)
