"""The profile of a decode step, and the timer behind it."""

from types import SimpleNamespace

import pytest

from benchmarks.cpu.cases import Case
from benchmarks.harness.apart import apart
from benchmarks.micro import step_profile
from benchmarks.micro.part_timer import PartTimer, Place
from benchmarks.micro.step_profile import ATTENTION, LINEARS, PARTS, profile_steps
from folovllm.model_files import DEMO_MODEL


class Clock:
    """Shows the time that it was set to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    def spend(self, seconds: float) -> None:
        self.now += seconds


def test_a_part_within_another_counts_for_itself_alone() -> None:
    clock = Clock()
    parts = SimpleNamespace(inner=lambda: clock.spend(2.0))

    def outer() -> str:
        clock.spend(1.0)
        parts.inner()
        parts.inner()
        return "result"

    parts.outer = outer
    timer = PartTimer(clock)
    with timer.watching([Place("in", parts, "inner"), Place("out", parts, "outer")]):
        assert parts.outer() == "result"
        assert timer.take() == {"in": 4.0, "out": 1.0}
        assert timer.take() == {}
    assert parts.outer is outer


def test_a_part_that_raises_counts_too() -> None:
    clock = Clock()

    def fail() -> None:
        clock.spend(1.0)
        raise ValueError

    parts = SimpleNamespace(fail=fail)
    timer = PartTimer(clock)
    with timer.watching([Place("failing", parts, "fail")]), pytest.raises(ValueError):
        parts.fail()

    assert timer.take() == {"failing": 1.0}


def test_every_part_of_a_step_takes_time() -> None:
    cases = [Case("decode", 2, 8, 6)]

    (profile,) = apart(profile_steps, DEMO_MODEL, "bf16", cases, threads=1)

    assert tuple(profile) == PARTS
    assert min(profile[LINEARS], profile[ATTENTION]) > 0
    assert sum(value > 0 for value in profile.values()) >= len(PARTS) - 1


def test_the_command_prints_shares(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model", "demo", "--batches", "1", "2", "--context", "8", "--steps", "6"]

    step_profile.main([*options, "--threads", "1"])

    *_, beside, step = capsys.readouterr().out.splitlines()
    assert beside.startswith("neither linears nor attention")
    assert step.split()[2::2] == ["100%", "100%"]
