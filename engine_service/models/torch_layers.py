"""The operations of a plan in plain torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from engine_service.layers.attention.backend import AttentionBackend, KVCache
from engine_service.layers.linear.linear import Linear
from engine_service.layers.linear.row_operators import RowOperators
from engine_service.layers.norm import RMSNorm
from engine_service.layers.parallel import TensorParallel
from engine_service.layers.rotary import Angles, rotate
from engine_service.models.layer_plan import Attention, Mlp, Norm, Op, Projection


@dataclass(frozen=True, slots=True)
class LayerTools:
    """What every layer is made with. Weights are on the meta device."""

    backend: AttentionBackend
    operators: RowOperators
    dtype: torch.dtype
    eps: float
    parallel: TensorParallel

    def linear(self, op: Projection) -> Linear:
        """A projection."""
        return Linear(op.inputs, op.outputs, op.bias, self.dtype, self.operators.linear)

    def norm(self, op: Norm) -> RMSNorm:
        """A norm."""
        return self.operators.norm(op.size, self.eps, self.dtype)


class LayerStep(NamedTuple):
    """What a step has for one layer."""

    angles: Angles
    cache: KVCache
    plan: Any
    """The attention backend's."""


class TokenMixer(nn.Module):
    """An operation on all tokens of a step: its `forward` takes (hidden, LayerStep)."""


class AttentionLayer(TokenMixer):
    """See Attention."""

    def __init__(self, op: Attention, tools: LayerTools) -> None:
        super().__init__()
        self._backend, self._parallel = tools.backend, tools.parallel
        self._heads, self._head_dim = [op.num_heads, op.num_kv_heads, op.num_kv_heads], op.head_dim
        self.qkv, self.output = tools.linear(op.qkv), tools.linear(op.output)
        self.q_norm = None if op.q_norm is None else tools.norm(op.q_norm)
        self.k_norm = None if op.k_norm is None else tools.norm(op.k_norm)

    def forward(self, hidden: Tensor, step: LayerStep) -> Tensor:
        """[T, hidden_size] -> [T, hidden_size]; writes the tokens' KV first."""
        qkv: Tensor = self.qkv(hidden)
        heads = qkv.view(len(qkv), -1, self._head_dim)
        query, key, value = torch.split(heads, self._heads, dim=1)
        query = query if self.q_norm is None else self.q_norm(query)
        key = key if self.k_norm is None else self.k_norm(key)
        query, key = rotate(query, step.angles), rotate(key, step.angles)
        self._backend.write(key, value, step.cache, step.plan)
        mixed = self._backend.forward(query, key, value, step.cache, step.plan)
        return self._parallel.all_reduce(self.output(mixed.flatten(1)))


class MlpLayer(nn.Module):
    """The SwiGLU feed-forward layer (Shazeer, 2020)."""

    def __init__(self, op: Mlp, tools: LayerTools) -> None:
        super().__init__()
        self._silu, self._parallel = tools.operators.silu, tools.parallel
        self.gate_up, self.down = tools.linear(op.gate_up), tools.linear(op.down)

    def forward(self, hidden: Tensor) -> Tensor:
        """[T, hidden_size] -> [T, hidden_size]."""
        gate, up = self.gate_up(hidden).chunk(2, dim=-1)
        return self._parallel.all_reduce(self.down(self._silu(gate) * up))


LAYERS: Mapping[type[Op], Callable[[Any, LayerTools], nn.Module]] = {
    Norm: lambda op, tools: tools.norm(op),
    Attention: AttentionLayer,
    Mlp: MlpLayer,
}
"""Makes the module of an operation. Children's modules are attributes named as the fields are."""
