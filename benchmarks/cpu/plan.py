"""Plan: what a run of the CPU benchmark measures, and how often."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from benchmarks.cpu.cases import (
    DECODE,
    PREFILL,
    QUICK_DECODE,
    QUICK_PREFILL,
    QUICK_THROUGHPUT,
    THROUGHPUT,
    Case,
)
from benchmarks.cpu.kv_steps import StepCase, ragged
from benchmarks.harness.open_loop import Load
from folovllm.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Plan:
    """All sizes of a run."""

    cases: tuple[Case, ...]
    """For every engine. Large batches come first: they touch all of a KV cache, and the first touch
    of memory takes time that a server has behind it."""
    served: tuple[Case, ...]
    """For our engine alone and through both services."""
    loads: tuple[Load, ...]
    """For the same two."""
    steps: tuple[StepCase, ...]
    """Of our runner alone; the last two are ragged, and uniform with the same number of keys."""
    max_num_seqs: int
    """Most sequences that run at once; this and what follows is the same whatever is picked."""
    max_model_len: int
    """Most tokens of one sequence."""
    kv_tokens: int
    """Tokens for which an engine's KV cache must have place."""
    turns: int
    load_turns: int
    read_mib: int
    gemm_size: int

    def pick(self, patterns: Sequence[str]) -> "Plan":
        """What of it has a name that begins like one of the patterns, in which * is anything.

        Raises ConfigError where a pattern fits nothing.
        """
        names = [case.name for case in (*self.cases, *self.served)]
        names += [load.name for load in self.loads]
        names += [case.group for case in self.steps]
        for pattern in patterns:
            if not any(_fits(name, (pattern,)) for name in names):
                known = ", ".join(dict.fromkeys(names))
                raise ConfigError(f"no case's name begins with {pattern!r}; there are {known}")
        return replace(
            self,
            cases=tuple(case for case in self.cases if _fits(case.name, patterns)),
            served=tuple(case for case in self.served if _fits(case.name, patterns)),
            loads=tuple(load for load in self.loads if _fits(load.name, patterns)),
            steps=tuple(case for case in self.steps if _fits(case.group, patterns)),
        )


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, f"{pattern}*") for pattern in patterns)


def full(rate: float, turns: int) -> Plan:
    """Minutes on two cores with the shape of Qwen3-0.6B; `rate` is of requests a second."""
    return Plan(
        cases=(*DECODE, *PREFILL),
        served=(THROUGHPUT,),
        loads=(Load(rate, num_requests=20, prompt_tokens=(32, 256), new_tokens=(16, 96)),),
        steps=(StepCase("step 8 x 4096", (4096,) * 8), *ragged(32, 16, 2048)),
        max_num_seqs=32,
        max_model_len=576,
        kv_tokens=8192,
        turns=turns,
        load_turns=2,
        read_mib=1024,
        gemm_size=4096,
    )


def quick() -> Plan:
    """Seconds, for the embedded model: shows that everything runs, and not how fast it is."""
    return Plan(
        cases=(*QUICK_DECODE, *QUICK_PREFILL),
        served=(QUICK_THROUGHPUT,),
        loads=(Load(50.0, num_requests=8, prompt_tokens=(4, 16), new_tokens=(4, 8)),),
        steps=(StepCase("step 2 x 256", (256,) * 2), *ragged(4, 16, 128)),
        max_num_seqs=8,
        max_model_len=64,
        kv_tokens=256,
        turns=2,
        load_turns=1,
        read_mib=32,
        gemm_size=256,
    )
