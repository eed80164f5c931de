"""The sections of the GPU benchmark, how long each may take, and which share a process."""

import importlib
from dataclasses import dataclass

from benchmarks.gpu.bench import Bench, BenchCase


@dataclass(frozen=True, slots=True)
class Section:
    """A module with `cases(bench)`."""

    name: str
    module: str
    seconds: float
    """No case begins once so many have passed."""
    silence_s: float = 60.0
    """A case that finds nothing for so long is given up: what it compiles may take forever."""

    def cases(self, bench: Bench) -> list[BenchCase]:
        """What there is to measure; imports what that needs."""
        cases: list[BenchCase] = importlib.import_module(f"benchmarks.gpu.{self.module}").cases(
            bench
        )
        return cases


# Those of a group share a process, and one engine. What matters most comes first.
GROUPS = (
    (
        Section("roofline", "measures.roofline", 15),
        Section("start", "measures.start", 10, silence_s=180),  # loads, tunes, captures
        Section("decode", "measures.decode", 60),
        Section("requests", "measures.requests", 45),
        Section("prefill", "measures.prefill", 20, silence_s=45),
        Section("first-token", "measures.first_token", 15, silence_s=45),
    ),
    (Section("transformers", "peers.static_generate", 60, silence_s=90),),
    (Section("torch", "peers.compiled_decoder", 50, silence_s=70),),
    (Section("kernels", "measures.kernels", 80, silence_s=40),),
    (Section("continuous", "peers.continuous_batching", 50, silence_s=70),),
    (Section("batches", "peers.padded_batches", 90, silence_s=130),),
)
SECTIONS = {section.name: section for group in GROUPS for section in group}
_ROOFLINE, _START = (each.name for each in GROUPS[0][:2])


def chosen_groups(names: list[str] | None, together: bool = False) -> list[tuple[str, ...]]:
    """Names of the sections that share each process; all where none are named.

    The first process measures the roofline, as every share refers to it; what needs an engine comes
    after its start, which may take long. `together` puts all into one process.
    """
    wanted = [
        [each.name for each in group if names is None or each.name in names] for group in GROUPS
    ]
    engine = [name for name in wanted[0] if name not in (_ROOFLINE, _START)]
    starts = [_START] if engine or _START in wanted[0] else []
    groups = [group for group in ([*starts, *engine], *wanted[1:]) if group] or [[]]
    if together:
        groups = [[name for group in groups for name in group]]
    groups[0].insert(0, _ROOFLINE)
    return [tuple(group) for group in groups]
