"""What a decoder is made of, as data: operations in order, their flags, and their weights by name.

A family states its plan once; checking, reading, sharding, packing and computing follow it. A
backend lowers a plan or refuses it, naming what it does not know: an operation, its position, or a
flag. A flag is any field with a default, so a new one is refused by every backend until it is
listed there.
"""

from collections.abc import Iterator, Set
from dataclasses import MISSING, dataclass, fields, replace
from enum import Enum, auto
from itertools import zip_longest
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

    def walk(self) -> Iterator["Op"]:
        """Itself and all below it."""
        yield self
        for _, child in self.children():
            yield from child.walk()

    def weights(self, prefix: str = "") -> Iterator[Weight]:
        """Of all its children, in order."""
        for _, child in self.children():
            yield from child.weights(f"{prefix}{self.name}.")

    def shard(self, size: int) -> Self:
        """What each of `size` ranks has of it. Raises ConfigError if they cannot share it."""
        parts: dict[str, Any] = {name: child.shard(size) for name, child in self.children()}
        return replace(self, **parts)


@dataclass(frozen=True, slots=True)
class Embedding(Op):
    """Rows of a table by token id."""

    rows: int
    size: int

    def weights(self, prefix: str = "") -> Iterator[Weight]:
        """The table."""
        yield Weight(f"{prefix}{self.name}.weight", (self.rows, self.size), Cut.OUTPUTS)

    def shard(self, size: int) -> "Embedding":
        """Equally many rows, the last rank's padded."""
        return replace(self, rows=-(-self.rows // size))


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
        """Equally many outputs, the last rank's padded, or inputs, which must divide."""
        if self.cut is Cut.OUTPUTS:
            return replace(self, parts=tuple((name, -(-n // size)) for name, n in self.parts))
        return replace(self, inputs=_share(self.inputs, size, f"{self.name}'s inputs"))


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

    embedding: Embedding
    layers: tuple[LayerPlan, ...]
    norm: Norm
    head: Projection
    tied: bool
    """Whether the head's weight is the embedding's."""

    def numbered(self) -> Iterator[tuple[str, LayerPlan]]:
        """The layers, each with the prefix of its names in checkpoints."""
        for index, layer in enumerate(self.layers):
            yield f"model.layers.{index}.", layer

    def weights(self) -> Iterator[Weight]:
        """All tensors of a checkpoint."""
        yield from self.embedding.weights()
        for prefix, layer in self.numbered():
            for op in operations(layer):
                yield from op.weights(prefix)
        yield from self.norm.weights()
        if not self.tied:
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
            head=self.head.shard(size),
        )

    @property
    def attention(self) -> Attention:
        """That of the first layer with any."""
        ops = (op for layer in self.layers for op in operations(layer))
        return next(op for op in ops if isinstance(op, Attention))


def operations(layer: LayerPlan) -> Iterator[Op]:
    """Those of all its blocks, in order."""
    for block in layer:
        yield from block


def unknown_flag(plan: DecoderPlan, flags: Set[str]) -> str | None:
    """The first flag that is set and not among `flags`, as "flag of operation"."""
    ops = [op for layer in dict.fromkeys(plan.layers) for op in operations(layer)]
    parts: list[Any] = [plan]
    for op in (plan.embedding, *ops, plan.norm, plan.head):
        parts += op.walk()
    for part in parts:
        for field in fields(part):
            is_set = field.default not in (MISSING, getattr(part, field.name))
            if is_set and field.name not in flags:
                return f"{field.name} of {getattr(part, 'name', 'the model')}"
    return None


_PRE_NORM = ((Norm, Attention), (Norm, Mlp))


def not_pre_norm(plan: DecoderPlan) -> str | None:
    """The first operation that is not where a pre-norm layer, (norm, attention), (norm, MLP), has
    it; None if all layers are such."""
    for layer in dict.fromkeys(plan.layers):
        for block, kinds in zip_longest(layer, _PRE_NORM, fillvalue=()):
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
