"""Report: what was checked how often, what failed, and what is known to fail.

A check that `chaos.known_failing` names may fail. If it has passed every time, that is a failure
too: whoever mends a fault takes its line out of the table.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

_MAX_LINES = 3


@dataclass(slots=True)
class Check:
    """What has been found of one name."""

    num_runs: int = 0
    num_failed: int = 0
    examples: list[str] = field(default_factory=list)
    note: str = ""


class Report:
    """Collects verdicts and prints each as it comes."""

    def __init__(self, known: Mapping[str, str]) -> None:
        """`known` has by pattern of names why a check fails today."""
        self.checks: dict[str, Check] = {}
        self._known = known
        self._started = time.monotonic()

    def add(self, name: str, problems: Sequence[str], note: str = "", quiet: bool = False) -> None:
        """A verdict: passed if there are no problems. A `quiet` one is printed by its caller."""
        check = self.checks.setdefault(name, Check())
        check.num_runs += 1
        check.num_failed += bool(problems)
        check.note = note
        check.examples += problems[: _MAX_LINES - len(check.examples)]
        if quiet:
            return
        verdict = self.verdict(name) if problems else "ok"
        seconds = time.monotonic() - self._started
        print(f"{seconds:6.1f} s  {verdict:<8} {name}{f'  ({note})' if note else ''}", flush=True)
        for problem in problems[:_MAX_LINES]:
            print(f"{'':19}{problem}", flush=True)

    def verdict(self, name: str) -> str:
        """ok, known (it fails as is known), FAILED, or MENDED (it passes and is known to fail)."""
        check, known = self.checks[name], self.reason(name) is not None
        if check.num_failed:
            return "known" if known else "FAILED"
        return "MENDED" if known else "ok"

    def reason(self, name: str) -> str | None:
        """Why a check is known to fail."""
        return next((why for key, why in self._known.items() if fnmatchcase(name, key)), None)

    @property
    def exit_code(self) -> int:
        """0 if all is as it is known to be."""
        verdicts = {self.verdict(name) for name in self.checks}
        return int(bool(verdicts & {"FAILED", "MENDED"}))

    def print_summary(self) -> None:
        """The checks that did not simply pass, and the counts."""
        by_verdict: dict[str, list[str]] = {}
        for name in self.checks:
            by_verdict.setdefault(self.verdict(name), []).append(name)
        for verdict in ("known", "MENDED", "FAILED"):
            for name in by_verdict.get(verdict, ()):
                check = self.checks[name]
                why = f" ({self.reason(name)})" if verdict != "FAILED" else ""
                print(f"{verdict:<8} {name}: {check.num_failed} of {check.num_runs} failed{why}")
                for line in check.examples if verdict == "FAILED" else ():
                    print(f"{'':9}{line}")
        counts = ", ".join(f"{len(names)} {verdict}" for verdict, names in by_verdict.items())
        print(f"{len(self.checks)} checks: {counts}")
