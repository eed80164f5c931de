"""Bounds: the roofline, applied to a model and to the weight format of an engine."""

from dataclasses import dataclass

from benchmarks.cpu.cases import Case
from benchmarks.cpu.kv_steps import StepCase
from benchmarks.cpu.roofline import Roofline
from benchmarks.harness.model_shape import ModelShape
from benchmarks.harness.weight_formats import weight_bytes
from benchmarks.peers.contender_name import ContenderName


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a machine allows a model."""

    roofline: Roofline
    shape: ModelShape

    def case(self, case: Case, engine: ContenderName) -> float | None:
        """Tokens a second of a decode or prefill case.

        Operations bound bf16 alone; those of int8 may be faster.
        """
        if case.timed == "decode":
            return case.batch / self._decode_s(case.context_lengths, engine)
        if case.timed == "throughput" or engine.weight_format != "bf16":
            return None
        operations = self.shape.prefill_operations((case.prompt_tokens,) * case.batch)
        return case.num_prompt_tokens / self.roofline.compute_bound_s(operations)

    def step_ms(self, case: StepCase, engine: ContenderName) -> float:
        """Milliseconds of a decode step."""
        return self._decode_s(case.context_lengths, engine) * 1e3

    def _decode_s(self, context_lengths: tuple[int, ...], engine: ContenderName) -> float:
        weight = weight_bytes(engine.peer, engine.weight_format)
        read = self.roofline.memory_bound_s(self.shape.decode_bytes(context_lengths, weight))
        if engine.weight_format != "bf16":
            return read
        operations = 2 * self.shape.matrix_elements * len(context_lengths)
        return max(read, self.roofline.compute_bound_s(operations))
