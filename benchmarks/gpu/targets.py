"""What the engine is meant to reach on an H100 or H200 in the shape of Qwen3-0.6B."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.gpu.line import Ceilings, Line
from benchmarks.gpu.measures import decode, kernels, requests

PEER_BATCH_1, PEER_REQUESTS = "batch 1", "requests"
"""How the names of peers' lines begin."""
PEER_SECTIONS = ("transformers", "continuous", "batches")


@dataclass(frozen=True, slots=True)
class Target:
    """A number that must be reached, and the one that is meant to be."""

    name: str
    unit: str
    value: Callable[[Sequence[Line]], float | None]
    """From the lines of a run; None where it was not measured."""
    least: float
    aim: float
    more_is_better: bool = True

    def verdict(self, value: float) -> str:
        """How far a value is."""
        if self._reaches(value, self.aim):
            return "aim"
        return "met" if self._reaches(value, self.least) else "missed"

    def _reaches(self, value: float, goal: float) -> bool:
        return value >= goal if self.more_is_better else value <= goal


def _find(lines: Sequence[Line], section: str, name: str) -> Line | None:
    keyed = {line.key: line for line in lines if line.seconds}
    return keyed.get((section, name))


def _rate(section: str, name: str) -> Callable[[Sequence[Line]], float | None]:
    def value(lines: Sequence[Line]) -> float | None:
        line = _find(lines, section, name)
        return line.rate if line else None

    return value


def _share_of_copy(section: str, name: str) -> Callable[[Sequence[Line]], float | None]:
    def value(lines: Sequence[Line]) -> float | None:
        line = _find(lines, section, name)
        return Ceilings.of(lines).share_of_copy(line) if line else None

    return value


def _over_peers(
    section: str, name: str, beginning: str
) -> Callable[[Sequence[Line]], float | None]:
    """How many times as many tokens a second as the best line of transformers."""

    def value(lines: Sequence[Line]) -> float | None:
        ours = _rate(section, name)(lines)
        peers = [
            line.rate
            for line in lines
            if line.section in PEER_SECTIONS and line.name.startswith(beginning) and line.rate
        ]
        return ours / max(peers) if ours and peers else None

    return value


def _extra(section: str, name: str, extra: str) -> Callable[[Sequence[Line]], float | None]:
    def value(lines: Sequence[Line]) -> float | None:
        line = _find(lines, section, name)
        return line.extras.get(extra) if line else None

    return value


_DECODE_1 = decode.SECTION, decode.line_name(1, 128)
_DECODE_64 = decode.SECTION, decode.line_name(64, 1024)
_DECODE_256 = decode.SECTION, decode.line_name(256, 1024)
_ATTENTION = kernels.SECTION, kernels.attention_name(64, 8192)
_REQUESTS = requests.SECTION, requests.line_name(256)

TARGETS = (
    Target("decode 1 x 128", "tok/s", _rate(*_DECODE_1), 1400, 2500),
    Target("256 requests", "tok/s", _rate(*_REQUESTS), 20000, 28000),
    Target("decode 256 x 1024", "of copy", _share_of_copy(*_DECODE_256), 0.6, 0.8),
    Target("decode attention 64 x 8192", "of copy", _share_of_copy(*_ATTENTION), 0.75, 0.9),
    Target("decode 1 x 128", "x transformers", _over_peers(*_DECODE_1, PEER_BATCH_1), 4, 8),
    Target("256 requests", "x transformers", _over_peers(*_REQUESTS, PEER_REQUESTS), 3, 6),
    Target(
        "decode 64 x 1024, host",
        "% not hidden",
        _extra(*_DECODE_64, decode.HOST),
        5,
        1,
        more_is_better=False,
    ),
)
