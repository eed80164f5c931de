"""Ceilings: what the machine can do at most, measured in the same run as the engines.

A step must move its bytes and compute its operations; the longer of the two is its bound
(the roofline of Williams, Waterman, Patterson 2009).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.harness.cases import Case
from benchmarks.harness.engine_name import EngineName
from benchmarks.harness.model_shape import ModelShape, bytes_of_weight


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Of a CPU with all threads that were allowed, or of a GPU."""

    bytes_per_s: float
    """A CPU's of reading; a GPU's of a large copy, reading and writing counted."""
    operations_per_s: float
    """Floating point operations of a large matrix product in bfloat16."""

    def __str__(self) -> str:
        return (
            f"moves {self.bytes_per_s / 1e9:,.1f} GB/s, "
            f"multiplies {self.operations_per_s / 1e9:,.0f} GFLOP/s in bf16"
        )

    def seconds(self, num_bytes: float, operations: float = 0.0) -> float:
        """The least time in which so much can be moved and computed."""
        return max(num_bytes / self.bytes_per_s, operations / self.operations_per_s)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a machine allows a model."""

    ceilings: Ceilings
    shape: ModelShape

    def rate(self, case: Case, engine: EngineName) -> float | None:
        """Tokens a second of a decode or prefill case.

        Operations bound bf16 alone; those of int8 may be faster.
        """
        if case.timed == "decode":
            return case.batch / self._decode_s(case.context_lengths, engine)
        if case.timed == "throughput" or engine.weight_format != "bf16":
            return None
        operations = self.shape.prefill_operations((case.prompt_tokens,) * case.batch)
        return case.num_prompt_tokens / self.ceilings.seconds(0.0, operations)

    def _decode_s(self, context_lengths: Sequence[int], engine: EngineName) -> float:
        weight = bytes_of_weight(engine.engine, engine.weight_format)
        products = 2.0 * self.shape.matrix_elements * len(context_lengths)
        return self.ceilings.seconds(
            self.shape.decode_bytes(context_lengths, weight),
            products if engine.weight_format == "bf16" else 0.0,
        )
