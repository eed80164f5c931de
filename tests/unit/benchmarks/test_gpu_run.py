"""Sections fail, hang and break their process, and the others go on."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import run as gpu_run
from benchmarks.gpu import worker as gpu_worker
from benchmarks.gpu.bench import Bench, BenchCase
from benchmarks.gpu.line import Line
from benchmarks.gpu.messages import Began, Machine, Message, Task
from benchmarks.gpu.plan import smoke
from benchmarks.gpu.run import run_groups
from benchmarks.gpu.sections import Section
from folovllm.model_files import DEMO_MODEL
from support.fakes.moody_workers import moody, stillborn

TASK = Task(DEMO_MODEL, smoke=True, sections=("a", "b"))


@pytest.fixture(autouse=True)
def sections(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {name: Section(name, "none", 10, silence_s=1.0) for name in "ab"}
    monkeypatch.setattr(gpu_run, "SECTIONS", known)


def outcomes(found: list[Line | Machine]) -> dict[tuple[str, str], str]:
    return {each.key: each.error for each in found if isinstance(each, Line)}


def test_a_process_that_dies_or_hangs_is_replaced() -> None:
    found = outcomes(list(run_groups([TASK], seconds=60, worker=moody)))
    assert found == {
        ("a", "first"): "",
        ("a", "dies"): "the process ended",
        ("a", "hangs"): "given up after 1 s",
        ("a", "last"): "",
    }


def test_a_process_that_begins_nothing_is_not_started_again() -> None:
    found = outcomes(list(run_groups([TASK], seconds=60, worker=stillborn)))
    reason = "the process ended before it began anything"
    assert found == {("a", "all"): reason, ("b", "all"): reason}


def test_nothing_begins_when_the_time_is_over() -> None:
    found = outcomes(list(run_groups([TASK, TASK], seconds=0.0, worker=moody)))
    assert set(found.values()) == {"left out: the run's time is over"}


def measured(cases: list[BenchCase], seconds: float = 10.0) -> list[Message]:
    """The messages of one section's cases."""

    class Given(Section):
        def cases(self, bench: Bench) -> list[BenchCase]:
            return cases

    sent: list[Message] = []
    bench = Bench(Path(), torch.device("cpu"), smoke())
    skipped = frozenset({("a", "skipped")})
    assert gpu_worker._measure(
        Given("a", "none", seconds), bench, skipped, float("inf"), sent.append
    )
    return sent


def lines(*found: Line) -> Iterator[Line]:
    yield from found


def broken() -> Iterator[Line]:
    yield Line("a", "part", 1.0)
    raise ValueError("no such kernel\nand more")


def test_a_case_that_fails_says_why_and_keeps_what_it_found() -> None:
    good = Line("a", "good", 1.0)
    cases = [
        BenchCase("bad", broken),
        BenchCase("skipped", broken),
        BenchCase("good", lambda: lines(good)),
    ]
    assert measured(cases) == [
        Began("a", "bad"),
        Line("a", "part", 1.0),
        Line("a", "bad", error="ValueError: no such kernel"),
        Began("a", "good"),
        good,
    ]


def test_a_case_that_would_take_too_long_is_left_out() -> None:
    cases = [BenchCase("long", broken, expected_s=11), BenchCase("short", lambda: lines())]
    first, *rest = measured(cases)
    assert first == Line("a", "long", error="left out: too little time is left")
    assert rest == [Began("a", "short")]
