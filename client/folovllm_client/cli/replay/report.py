"""What a replay found: a verdict on each request, and on all of them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from folovllm.records.comparison import Difference


@dataclass(frozen=True, slots=True)
class FoundDifference:
    """The first token of an output that is another one."""

    difference: Difference
    recorded_logprob: float | None
    """Of the recorded token, by the model that replays; None if that is not known."""
    found_logprob: float | None
    """Of the token that came instead."""

    @property
    def nats(self) -> float | None:
        """By how much the token that came is the more probable one."""
        if self.recorded_logprob is None or self.found_logprob is None:
            return None
        return self.found_logprob - self.recorded_logprob

    def as_dict(self) -> dict[str, object]:
        """Everything, for JSON."""
        logprobs = {"recorded_logprob": self.recorded_logprob, "found_logprob": self.found_logprob}
        return asdict(self.difference) | logprobs | {"nats": self.nats}


@dataclass(frozen=True, slots=True)
class Verdict:
    """On one request."""

    line: int
    request_id: str
    """Of a branch the fork's, with the branch's index in brackets."""
    num_tokens: int
    """That were recorded."""
    differences: tuple[FoundDifference, ...] = ()
    """One for each output that differs."""
    logprob_difference: float | None = None
    """The largest of any token before them, in nats; None if none were recorded."""
    problem: str = ""
    """Why it could not run."""

    @property
    def is_equal(self) -> bool:
        """Whether all tokens are the recorded ones."""
        return not self.differences and not self.problem

    def as_dict(self) -> dict[str, object]:
        """Everything, for JSON."""
        return {
            "line": self.line,
            "request_id": self.request_id,
            "num_tokens": self.num_tokens,
            "equal": self.is_equal,
            "differences": [each.as_dict() for each in self.differences],
            "logprob_difference": self.logprob_difference,
            "problem": self.problem,
        }


@dataclass(slots=True)
class ReplayReport:
    """On all requests of a file."""

    file: str
    place: str
    numerics: str
    """What is to be expected, in words."""
    verdicts: list[Verdict] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every request is equal."""
        return all(verdict.is_equal for verdict in self.verdicts)

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON, the requests in the order of their lines."""
        ordered = sorted(self.verdicts, key=lambda verdict: verdict.line)
        return {
            "file": self.file,
            "place": self.place,
            "numerics": self.numerics,
            "num_requests": len(ordered),
            "num_differing": sum(bool(verdict.differences) for verdict in ordered),
            "num_problems": sum(bool(verdict.problem) for verdict in ordered),
            "passed": self.passed,
            "requests": [verdict.as_dict() for verdict in ordered],
        }

    def rows(self) -> list[list[str]]:
        """The cells of a table of all that is not equal; empty if everything is."""
        rows = []
        for verdict in sorted(self.verdicts, key=lambda verdict: verdict.line):
            place = [str(verdict.line), verdict.request_id]
            rows += [[*place, *_cells(found)] for found in verdict.differences]
            if verdict.problem:
                rows.append([*place, "-", "-", "-", "-", "-", verdict.problem])
        header = ["line", "request", "index", "position", "recorded", "now", "nats", ""]
        return [header, *rows] if rows else []

    @property
    def summary(self) -> str:
        """One line on all requests."""
        total = len(self.verdicts)
        num_tokens = sum(verdict.num_tokens for verdict in self.verdicts)
        if self.passed:
            parts = [f"{_count(total, 'request')} equal, {_count(num_tokens, 'token')}"]
        else:
            differing = [verdict for verdict in self.verdicts if verdict.differences]
            problems = [verdict for verdict in self.verdicts if verdict.problem]
            parts = []
            if differing:
                parts.append(f"{len(differing)} of {_count(total, 'request')} differ")
            if problems:
                parts.append(f"{len(problems)} of {_count(total, 'request')} could not run")
        known = [each.logprob_difference for each in self.verdicts]
        if nats := [each for each in known if each is not None]:
            largest = max(nats)
            parts.append(
                f"log-probabilities differ by up to {largest:.3g} nats"
                if largest
                else "log-probabilities equal to the last bit"
            )
        return "; ".join(parts)


def _cells(found: FoundDifference) -> Sequence[str]:
    difference = found.difference
    ids = ["-" if each is None else str(each) for each in _ids(difference)]
    nats = "-" if found.nats is None else f"{found.nats:.4f}"
    remark = ""
    if None in _ids(difference):
        now = difference.found_ending or "goes on"
        remark = f"ended: {difference.recorded_ending}, now: {now}"
    return [str(difference.index), str(difference.position), *ids, nats, remark]


def _ids(difference: Difference) -> tuple[int | None, int | None]:
    return difference.recorded_id, difference.found_id


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
