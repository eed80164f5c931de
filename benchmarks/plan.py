"""Plan: what a run of the CPU benchmark measures, and how often."""

from dataclasses import dataclass

from benchmarks.cases import (
    DECODE,
    PREFILL,
    QUICK_DECODE,
    QUICK_PREFILL,
    QUICK_THROUGHPUT,
    THROUGHPUT,
    Case,
)
from benchmarks.kv_steps import StepCase, ragged
from benchmarks.open_loop import Load


@dataclass(frozen=True, slots=True)
class Plan:
    """All sizes of a run."""

    cases: tuple[Case, ...]
    """For every engine."""
    served: Case
    """For our engine alone and through both services."""
    load: Load
    """For the same two."""
    steps: tuple[StepCase, ...]
    """Of our runner alone; the last two are ragged, and uniform with the same number of keys."""
    repeats: int
    read_mib: int
    gemm_size: int

    @property
    def max_num_seqs(self) -> int:
        """Most sequences that run at once."""
        return max(case.batch for case in (*self.cases, self.served))

    @property
    def max_model_len(self) -> int:
        """Most tokens of one sequence of the batches."""
        return max(case.prompt_tokens + case.new_tokens for case in (*self.cases, self.served))

    @property
    def kv_tokens(self) -> int:
        """Tokens for which an engine's KV cache must have place."""
        return max(self.load.kv_tokens, *(case.kv_tokens for case in (*self.cases, self.served)))


def full(rate: float) -> Plan:
    """Some minutes on two cores with the shape of Qwen3-0.6B; `rate` is of requests a second."""
    return Plan(
        cases=(*PREFILL, *DECODE),
        served=THROUGHPUT,
        load=Load(rate, num_requests=20, prompt_tokens=(32, 256), new_tokens=(16, 96)),
        steps=(StepCase("step 8 x 4096", (4096,) * 8), *ragged(32, 16, 2048)),
        repeats=5,
        read_mib=1024,
        gemm_size=4096,
    )


def quick() -> Plan:
    """Seconds, for the embedded model: shows that everything runs, and not how fast it is."""
    return Plan(
        cases=(*QUICK_PREFILL, *QUICK_DECODE),
        served=QUICK_THROUGHPUT,
        load=Load(50.0, num_requests=8, prompt_tokens=(4, 16), new_tokens=(4, 8)),
        steps=(StepCase("step 2 x 256", (256,) * 2), *ragged(4, 16, 128)),
        repeats=2,
        read_mib=32,
        gemm_size=256,
    )
