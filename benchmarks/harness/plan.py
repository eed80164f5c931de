"""Plan: what a comparison of engines measures, and how often; `cpu` and `gpu` have their own."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from benchmarks.harness.cases import Case
from benchmarks.harness.open_loop import Load
from folovllm.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Plan:
    """All sizes of a run."""

    cases: tuple[Case, ...]
    """For every engine. On a CPU large batches come first: they touch all of a KV cache, and the
    first touch of memory takes time that a server spends only once."""
    max_num_seqs: int
    max_model_len: int
    kv_tokens: int | None
    """Tokens that an engine's KV cache must hold; None takes what the memory gives."""
    turns: int
    read_mib: int
    """Size of the buffer that is read or copied to find the memory's ceiling."""
    gemm_size: int
    """Rows and columns of the matrices that find the ceiling of computing."""
    served: tuple[Case, ...] = ()
    """For our engine alone and through both services."""
    loads: tuple[Load, ...] = ()
    """For the same two."""
    load_turns: int = 1

    def pick(self, patterns: Sequence[str]) -> "Plan":
        """The part whose names begin like one of the patterns, in which * is anything.

        Raises ConfigError if a pattern fits nothing.
        """
        names = [case.name for case in (*self.cases, *self.served)]
        names += [load.name for load in self.loads]
        check_patterns(names, patterns)
        return replace(
            self,
            cases=tuple(case for case in self.cases if fits(case.name, patterns)),
            served=tuple(case for case in self.served if fits(case.name, patterns)),
            loads=tuple(load for load in self.loads if fits(load.name, patterns)),
        )


def fits(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name begins like one of the patterns."""
    return any(fnmatchcase(name, f"{pattern}*") for pattern in patterns)


def check_patterns(names: Sequence[str], patterns: Sequence[str]) -> None:
    """Raises ConfigError if a pattern fits none of the names."""
    for pattern in patterns:
        if not any(fits(name, (pattern,)) for name in names):
            known = ", ".join(dict.fromkeys(names))
            raise ConfigError(f"no case's name begins with {pattern!r}; there are {known}")
