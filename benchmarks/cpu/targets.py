"""What the engine is meant to reach on a CPU, and how far it is: in each case ours beside a rival.

All are ratios of speeds, in the shape of Qwen3-0.6B.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.cpu.measurement import Measurement
from benchmarks.peers.contender_name import ContenderName
from benchmarks.peers.peer import PEERS

_BOUND = "bound"
_BEST = "best peer"


@dataclass(frozen=True, slots=True)
class Target:
    """How many times as fast as its rival an engine of ours must be, and is meant to be."""

    case: str
    engine: str = "folovllm"
    rival: str = _BEST
    """An engine, the best peer of the class, or the roofline's bound."""
    least: float | None = None
    aim: float | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """A target, and what was measured."""

    target: Target
    ours: Measurement
    rival: Measurement
    """A bound is one with a single value."""

    @property
    def ratio(self) -> float:
        """How many times as fast as the rival."""
        return self.ours.speed_over(self.rival)


def _against_best(
    case: str, engine: str, least: float | None = None, aim: float | None = None
) -> Target:
    return Target(case, engine, _BEST, least, aim)


TARGETS = (
    _against_best("prefill 128", "folovllm", 1.0, 1.1),
    _against_best("prefill 128", "folovllm:int8", 1.2, 1.8),
    _against_best("prefill 128", "folovllm:int4"),
    _against_best("prefill 512", "folovllm", 1.0, 1.1),
    _against_best("prefill 512", "folovllm:int8", 1.2, 1.8),
    _against_best("prefill 512", "folovllm:int4"),
    Target("decode 1 x 128", "folovllm", _BOUND, aim=0.92),
    Target("decode 1 x 128", "folovllm", "llama_cpp", least=0.92),
    Target("decode 1 x 128", "folovllm:int8", "llama_cpp:int8", 1.0, 1.3),
    Target("decode 1 x 128", "folovllm:int4", "llama_cpp:int4", 0.85, 1.2),
    _against_best("decode 8 x 128", "folovllm", 1.1, 1.5),
    _against_best("decode 8 x 128", "folovllm:int8", 1.4, 2.0),
    _against_best("decode 8 x 128", "folovllm:int4"),
    _against_best("decode 32 x 128", "folovllm", 1.3, 1.8),
    _against_best("decode 32 x 128", "folovllm:int8", 1.5, 2.5),
    _against_best("decode 32 x 128", "folovllm:int4"),
    # A step of at most 1.6 times the bound's time, 1.15 times at best.
    Target("step 8 x 4096", "folovllm", _BOUND, 1 / 1.6, 1 / 1.15),
    Target("ragged 32 x 16 to 2048", "folovllm", "uniform 32 x 1032", 1 / 1.25, 1 / 1.05),
    Target("throughput 32 x 16", "services", "folovllm", 0.95, 0.98),
)


def comparisons(measurements: Sequence[Measurement]) -> list[Comparison]:
    """Of the targets for which both sides were measured."""
    found = []
    for target in TARGETS:
        group = {each.engine: each for each in measurements if each.case == target.case}
        ours = group.get(target.engine)
        rival = None if ours is None else _rival(target, ours, group)
        if ours is not None and rival is not None:
            found.append(Comparison(target, ours, rival))
    return found


def best_peer(ours: Measurement, others: Sequence[Measurement]) -> Measurement | None:
    """The fastest of the peers that were measured in the same case with the same weight format."""
    peers = [each for each in others if is_rival(ours, each)]
    return max(peers, key=lambda peer: peer.speed_over(ours), default=None)


def is_rival(ours: Measurement, other: Measurement) -> bool:
    """Whether it is a peer's in the same class."""
    name: ContenderName = other.name
    return name.peer in PEERS and name.weight_format == ours.name.weight_format


def _rival(target: Target, ours: Measurement, group: dict[str, Measurement]) -> Measurement | None:
    if target.rival == _BEST:
        return best_peer(ours, list(group.values()))
    if target.rival == _BOUND:
        bound = ours.bound
        return None if bound is None else Measurement(ours.case, _BOUND, ours.unit, (bound,))
    return group.get(target.rival)
