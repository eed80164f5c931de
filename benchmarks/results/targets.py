"""What the engine is meant to reach, and how far it is: in each case ours beside a rival.

All are ratios of speeds, in the shape of Qwen3-0.6B; those of a GPU are of an H100 or H200.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.results.measurement import Measurement

_BOUND = "bound"
_BEST = "best peer"


@dataclass(frozen=True, slots=True)
class Target:
    """How many times as fast as its rival an engine of ours must be, and is meant to be."""

    case: str
    engine: str = "folovllm"
    minimum: float | None = None
    aim: float | None = None
    rival: str = _BEST
    """An engine, the best peer of the class, or the bound."""


_CPU = (
    Target("prefill 128", "folovllm", 1.0, 1.1),
    Target("prefill 128", "folovllm:int8", 1.2, 1.8),
    Target("prefill 128", "folovllm:int4"),
    Target("prefill 512", "folovllm", 1.0, 1.1),
    Target("prefill 512", "folovllm:int8", 1.2, 1.8),
    Target("prefill 512", "folovllm:int4"),
    Target("decode 1 x 128", "folovllm", aim=0.92, rival=_BOUND),
    Target("decode 1 x 128", "folovllm", 0.92, rival="llama_cpp"),
    Target("decode 1 x 128", "folovllm:int8", 1.0, 1.3, "llama_cpp:int8"),
    Target("decode 1 x 128", "folovllm:int4", 0.85, 1.2, "llama_cpp:int4"),
    Target("decode 8 x 128", "folovllm", 1.1, 1.5),
    Target("decode 8 x 128", "folovllm:int8", 1.4, 2.0),
    Target("decode 8 x 128", "folovllm:int4"),
    Target("decode 32 x 128", "folovllm", 1.3, 1.8),
    Target("decode 32 x 128", "folovllm:int8", 1.5, 2.5),
    Target("decode 32 x 128", "folovllm:int4"),
    # A step of at most 1.6 times the bound's time, 1.15 times at best.
    Target("decode 8 x 4096", "folovllm", 1 / 1.6, 1 / 1.15, _BOUND),
    Target("throughput 32 x 16", "services", 0.95, 0.98, "folovllm"),
)
_GPU = (
    Target("decode 1 x 128", rival="transformers-compiled", minimum=4.0, aim=8.0),
    Target("decode 64 x 1024", rival="graph-replay", minimum=0.95, aim=0.99),
    Target("decode 256 x 1024", rival=_BOUND, minimum=0.6, aim=0.8),
)
TARGETS = {"cpu": _CPU, "gpu": _GPU}
"""By the benchmark's name."""


def comparisons(
    benchmark: str, measurements: Sequence[Measurement]
) -> list[tuple[Target, Measurement, Measurement]]:
    """Targets for which both sides were measured, with ours and the rival.

    A bound is a measurement with a single value.
    """
    found = []
    for target in TARGETS.get(benchmark, ()):
        group = [each for each in measurements if each.case == target.case and each.values]
        ours = _find(group, target.engine)
        rival = ours and _rival(target, ours, group)
        if ours and rival:
            found.append((target, ours, rival))
    return found


def best_peer(ours: Measurement, others: Sequence[Measurement]) -> Measurement | None:
    """The fastest of the peers that were measured in the same case with the same weight format."""
    peers = [
        each
        for each in others
        if each.name.is_peer and each.name.weight_format == ours.name.weight_format
    ]
    return max(peers, key=lambda peer: peer.speed_over(ours), default=None)


def _rival(target: Target, ours: Measurement, group: Sequence[Measurement]) -> Measurement | None:
    if target.rival == _BEST:
        return best_peer(ours, group)
    if target.rival == _BOUND:
        bound = ours.bound
        return None if bound is None else Measurement(ours.case, _BOUND, ours.unit, (bound,))
    return _find(group, target.rival)


def _find(group: Sequence[Measurement], engine: str) -> Measurement | None:
    return next((each for each in group if each.engine == engine), None)
