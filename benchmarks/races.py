"""Races: contenders in turn, A B A B, with the same prompts, each alone on the machine."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.cases import Case
from benchmarks.contender import Contender
from benchmarks.kv_steps import StepCase
from benchmarks.measurement import Measurement
from benchmarks.model_shape import ModelShape
from benchmarks.open_loop import Latencies, Load, latencies
from benchmarks.roofline import Roofline


@dataclass(frozen=True, slots=True)
class Bounds:
    """The roofline, applied to a model."""

    roofline: Roofline
    shape: ModelShape

    def case(self, case: Case, weight_format: str) -> float | None:
        """Tokens a second of a decode or prefill case.

        Operations bound bf16 alone; those of int8 may be faster.
        """
        if case.timed == "decode":
            return case.batch / self._decode_s(case.context_lengths, weight_format)
        if case.timed == "throughput" or weight_format != "bf16":
            return None
        operations = self.shape.prefill_operations((case.prompt_tokens,) * case.batch)
        return case.num_prompt_tokens / self.roofline.compute_bound_s(operations)

    def step_ms(self, case: StepCase, weight_format: str) -> float:
        """Milliseconds of a decode step."""
        return self._decode_s(case.context_lengths, weight_format) * 1e3

    def _decode_s(self, context_lengths: tuple[int, ...], weight_format: str) -> float:
        read = self.roofline.memory_bound_s(self.shape.decode_bytes(context_lengths, weight_format))
        if weight_format != "bf16":
            return read
        operations = 2 * self.shape.matrix_elements * len(context_lengths)
        return max(read, self.roofline.compute_bound_s(operations))


def race(
    contenders: Sequence[Contender], case: Case, repeats: int, bounds: Bounds
) -> list[Measurement]:
    """Tokens a second of each, after one turn to warm up."""
    rates: dict[Contender, list[float]] = {each: [] for each in contenders}
    for turn in range(repeats + 1):
        prompts = case.prompts(turn, bounds.shape.vocab_size)
        for contender in contenders:
            rate = case.rate(contender.generate(prompts, case.new_tokens))
            contender.wait_idle()
            if turn:
                rates[contender].append(rate)
    return [
        Measurement(
            case.name,
            str(contender.name),
            "tok/s",
            tuple(values),
            bounds.case(case, contender.name.weight_format),
        )
        for contender, values in rates.items()
    ]


_LATENCIES: Mapping[str, Callable[[Latencies], float]] = {
    "first token p50": lambda seen: seen.first_token_p50_ms,
    "first token p99": lambda seen: seen.first_token_p99_ms,
    "inter-token p50": lambda seen: seen.inter_token_p50_ms,
    "inter-token p99": lambda seen: seen.inter_token_p99_ms,
}


def race_under_load(
    contenders: Sequence[Contender], load: Load, repeats: int, vocab_size: int
) -> list[Measurement]:
    """Latencies and throughput of each under an open loop of requests."""
    seen: dict[Contender, list[Latencies]] = {each: [] for each in contenders}
    for turn in range(repeats):
        arrivals = load.arrivals(turn, vocab_size)
        for contender in contenders:
            seen[contender].append(latencies(arrivals, contender.serve(arrivals)))
            contender.wait_idle()
    name = f"{load.rate:g} requests/s"
    throughput = [
        Measurement(name, str(each.name), "tok/s", tuple(t.tokens_per_s for t in turns))
        for each, turns in seen.items()
    ]
    return throughput + [
        Measurement(f"{name}, {what}", str(each.name), "ms", tuple(map(value, turns)))
        for what, value in _LATENCIES.items()
        for each, turns in seen.items()
    ]


def standing(contenders: Sequence[Contender]) -> list[Measurement]:
    """How long each took to open, and the memory that it has now."""
    ready = [Measurement("ready after", str(c.name), "s", (c.ready_s,)) for c in contenders]
    return ready + [
        Measurement("resident memory", str(c.name), "MiB", (c.resident_bytes() / 2**20,))
        for c in contenders
    ]
