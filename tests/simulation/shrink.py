"""Makes a scenario smaller that shows something wrong, while it still shows it."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

from simulation.scenario import RequestSpec, Scenario
from simulation.world import Result, World

T = TypeVar("T")

_PLAIN: dict[str, Any] = {
    "pause": 0.0,
    "leaves": None,
    "fork": None,
    "priority": 0,
    "salt": "",
    "has_tool": False,
}


def kind_of(complaint: str) -> str:
    """What is wrong, without which request it is wrong with: the words that are no names."""
    words = complaint.replace("'", " ").split()
    return " ".join(word for word in words[:8] if word.isalpha())


def shrunk(
    scenario: Scenario, run: Callable[[Scenario], Result] | None = None, max_runs: int = 400
) -> Scenario:
    """A smaller scenario with a complaint of the same kind as the first that this one has."""
    runs = run or (lambda each: World(each).run())
    found = {kind_of(complaint) for complaint in runs(scenario).complaints[:1]}
    num_runs = 0

    def still(smaller: Scenario) -> bool:
        nonlocal num_runs
        num_runs += 1
        return not found.isdisjoint(map(kind_of, runs(smaller).complaints))

    changed = bool(found)
    while changed and num_runs < max_runs:
        changed = False
        for smaller in _smaller(scenario):
            if num_runs >= max_runs:
                break
            if still(smaller):
                scenario, changed = smaller, True
                break
    return scenario


def _smaller(scenario: Scenario) -> Iterator[Scenario]:
    """Scenarios with something taken away, the largest steps first."""
    for faults in _without(scenario.faults):
        yield replace(scenario, faults=faults)
    for requests in _without(scenario.requests):
        yield replace(scenario, requests=requests)
    if scenario.max_delay:
        yield replace(scenario, max_delay=0.0)
    if len(scenario.requests) > 8:
        return
    for place, spec in enumerate(scenario.requests):
        for simpler in _simpler(spec):
            requests = (*scenario.requests[:place], simpler, *scenario.requests[place + 1 :])
            yield replace(scenario, requests=requests)


def _without(items: tuple[T, ...]) -> Iterator[tuple[T, ...]]:
    """What is left without a half, a quarter, …, one of them."""
    size = (len(items) + 1) // 2
    while size and items:
        for start in range(0, len(items), size):
            yield items[:start] + items[start + size :]
        size //= 2


def _simpler(spec: RequestSpec) -> Iterator[RequestSpec]:
    for name in spec.params:
        if name not in ("max_tokens", "seed"):
            rest = {key: value for key, value in spec.params.items() if key != name}
            yield replace(spec, params=rest)
    for name, plain in _PLAIN.items():
        if getattr(spec, name) != plain:
            changes: dict[str, Any] = {name: plain}
            yield replace(spec, **changes)
