"""What a decoder is made of, as data: operations in order, their flags, and their weights by name.

A family states its plan once; checking, reading, sharding, packing and computing follow it. A
backend lowers a plan or refuses it, naming what it does not know: an operation, its position, or a
flag. A flag is any field with a default, so every backend refuses a new one until it lists it.
"""

from collections.abc import Iterator, Set
from dataclasses import MISSING, dataclass, fields, replace
from enum import Enum, auto
from itertools import chain, zip_longest
from typing import Any, NamedTuple, Self

from folovllm.errors import ConfigError


class Cut(Enum):
    """How the ranks of a model share a tensor."""

    WHOLE = auto()
    """Every rank has all of it."""
    OUTPUTS = auto()
    """Dimension 0, in spans of equal size; the last ones are padded with zeros."""
    INPUTS = auto()
    """Dimension 1, in spans of equal size."""
    ONCE = auto()
    """The first rank has it and the others zeros: a bias of what is summed over the ranks."""


class Weight(NamedTuple):
    """A tensor of a checkpoint."""

    name: str
    shape: tuple[int, ...]
    cut: Cut


@dataclass(frozen=True, slots=True)
class Op:
    """An operation. Fields that are operations themselves are its children, in order."""

    name: str
    """Its name in checkpoints, within its parent."""

    def children(self) -> Iterator[tuple[str, "Op"]]:
        """Each with the name of its field."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Op):
                yield field.name, value

    def weights(self, prefix: str = "") -> Iterator[Weight]:
        """Of all its children, in order."""
        for _, child in self.children():
            yield from child.weights(f"{prefix}{self.name}.")

    def shard(self, size: int) -> Self:
        """What each of `size` ranks has of it. Raises ConfigError if they cannot share it."""
        parts: dict[str, Any] = {name: child.shard(size) for name, child in self.children()}
        return replace(self, **parts)


@dataclass(frozen=True, slots=True)
class Norm(Op):
    """RMSNorm over the last dimension."""

    size: int

    def weights(self, prefix: str = "") -> Iterator[Weight]:
        """One factor for each element."""
        yield Weight(f"{prefix}{self.name}.weight", (self.size,), Cut.WHOLE)


@dataclass(frozen=True, slots=True)
class Projection(Op):
    """Matrices that the same rows are multiplied with, computed as one; `name` is ours."""

    parts: tuple[tuple[str, int], ...]
    """The name of each matrix in checkpoints, and its outputs."""
    inputs: int
    cut: Cut
    bias: bool = False

    @property
    def outputs(self) -> int:
        """Of all parts together."""
        return sum(outputs for _, outputs in self.parts)

    def weights(self, prefix: str = "") -> Iterator[Weight]:
        """The parts in order, each followed by its bias."""
        for name, outputs in self.parts:
            yield Weight(f"{prefix}{name}.weight", (outputs, self.inputs), self.cut)
            if self.bias:
                cut = Cut.ONCE if self.cut is Cut.INPUTS else self.cut
                yield Weight(f"{prefix}{name}.bias", (outputs,), cut)

    def shard(self, size: int) -> "Projection":
        """As the cut says: outputs are padded on the last rank, inputs must divide."""
        if self.cut is Cut.OUTPUTS:
            return replace(self, parts=tuple((name, -(-n // size)) for name, n in self.parts))
        if self.cut is Cut.INPUTS:
            return replace(self, inputs=_share(self.inputs, size, f"{self.name}'s inputs"))
        return self


@dataclass(frozen=True, slots=True)
class Attention(Op):
    """Causal grouped-query attention with rotary positions; norms of queries and keys come first.

    All attention of a decoder has the same heads.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    qkv: Projection
    output: Projection
    q_norm: Norm | None = None
    k_norm: Norm | None = None

    def shard(self, size: int) -> "Attention":
        """Some of the heads."""
        if self.num_kv_heads < size:
            raise ConfigError(
                f"{size} ranks cannot share the model's {self.num_kv_heads} key heads; "
                f"start at most {self.num_kv_heads}"
            )
        return replace(
            self,
            num_heads=_share(self.num_heads, size, "num_attention_heads"),
            num_kv_heads=_share(self.num_kv_heads, size, "num_key_value_heads"),
            qkv=self.qkv.shard(size),
            output=self.output.shard(size),
        )


@dataclass(frozen=True, slots=True)
class Mlp(Op):
    """down(silu(gate) * up): SwiGLU."""

    gate_up: Projection
    down: Projection


LayerPlan = tuple[tuple[Op, ...], ...]
"""Blocks in order: a block's operations are applied in order, then added to the residual stream."""


@dataclass(frozen=True, slots=True)
class DecoderPlan:
    """All of a decoder, or a rank's part of it."""

    embedding: Projection
    """Its outputs are the tokens."""
    layers: tuple[LayerPlan, ...]
    norm: Norm
    head: Projection | None
    """None if the embedding is the head too."""

    def numbered(self) -> Iterator[tuple[str, Op]]:
        """The layers' operations in order, each with the prefix of its name in checkpoints."""
        for index, layer in enumerate(self.layers):
            for op in chain(*layer):
                yield f"model.layers.{index}.", op

    def weights(self) -> Iterator[Weight]:
        """All tensors of a checkpoint."""
        yield from self.embedding.weights()
        for prefix, op in self.numbered():
            yield from op.weights(prefix)
        yield from self.norm.weights()
        if self.head is not None:
            yield from self.head.weights()

    def shard(self, size: int) -> "DecoderPlan":
        """What each of `size` ranks has. Raises ConfigError if they cannot share it."""
        return replace(
            self,
            embedding=self.embedding.shard(size),
            layers=tuple(
                tuple(tuple(op.shard(size) for op in block) for block in layer)
                for layer in self.layers
            ),
            head=None if self.head is None else self.head.shard(size),
        )

    @property
    def attention(self) -> Attention:
        """That of the first layer with any."""
        return next(op for _, op in self.numbered() if isinstance(op, Attention))


def unknown_flag(plan: DecoderPlan, flags: Set[str]) -> str | None:
    """The first flag that is set and not among `flags`, as "flag of operation"."""
    parts: list[Any] = [plan, *chain(*chain(*dict.fromkeys(plan.layers)))]
    for part in parts:
        for field in fields(part):
            value = getattr(part, field.name)
            if field.default not in (MISSING, value) and field.name not in flags:
                return f"{field.name} of {getattr(part, 'name', 'the model')}"
            if isinstance(value, Op):
                parts.append(value)
    return None


def not_pre_norm(plan: DecoderPlan) -> str | None:
    """The first operation that is not where a pre-norm layer, (norm, attention), (norm, MLP), has
    it; None if all layers are such."""
    for layer in dict.fromkeys(plan.layers):
        for block, kinds in zip_longest(layer, ((Norm, Attention), (Norm, Mlp)), fillvalue=()):
            for op, kind in zip_longest(block, kinds):
                if op is None:
                    return f"a layer without {kind.__name__}"
                if type(op) is not kind:
                    return str(op.name)
    return None


def _share(total: int, size: int, name: str) -> int:
    if total % size:
        raise ConfigError(
            f"{size} ranks cannot share the model's {name} of {total}: it is no multiple of {size}"
        )
    return total // size
