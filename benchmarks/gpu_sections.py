"""The sections of the GPU benchmark, how long each may take, and which share a process."""

import importlib
from dataclasses import dataclass

from benchmarks.gpu_bench import Bench, BenchCase


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
        cases: list[BenchCase] = importlib.import_module(f"benchmarks.{self.module}").cases(bench)
        return cases


_BUILDING_S = 180.0
"""Silence where the engine may have to be built first."""

# Those of a group share a process, and one engine. What matters most comes first.
GROUPS = (
    (
        Section("roofline", "gpu_roofline", 15),
        Section("start", "gpu_start", 10, silence_s=_BUILDING_S),
        Section("decode", "gpu_decode", 60, silence_s=_BUILDING_S),
        Section("requests", "gpu_requests", 45, silence_s=_BUILDING_S),
        Section("prefill", "gpu_prefill", 20, silence_s=_BUILDING_S),
        Section("first-token", "gpu_first_token", 15, silence_s=_BUILDING_S),
    ),
    (Section("kernels", "gpu_kernels", 80, silence_s=40),),
    (Section("transformers", "gpu_peers.static_generate", 60, silence_s=90),),
    (Section("continuous", "gpu_peers.continuous_batching", 50, silence_s=70),),
    (Section("torch", "gpu_peers.compiled_decoder", 50, silence_s=50),),
    (Section("batches", "gpu_peers.padded_batches", 90, silence_s=110),),
)
SECTIONS = {section.name: section for group in GROUPS for section in group}
_ROOFLINE = GROUPS[0][0]


def chosen_groups(names: list[str] | None, together: bool = False) -> list[tuple[str, ...]]:
    """Names of the sections that share each process; all where none are named.

    The first process measures the roofline, as every share refers to it. `together` puts all into
    one process.
    """
    wanted = [
        [each.name for each in group if names is None or each.name in names] for group in GROUPS
    ]
    wanted = [group for group in wanted if group]
    if together:
        wanted = [[name for group in wanted for name in group]]
    if wanted and _ROOFLINE.name not in wanted[0]:
        wanted[0].insert(0, _ROOFLINE.name)
    return [tuple(group) for group in wanted]
