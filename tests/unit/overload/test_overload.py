"""What callers see of an engine that is asked for more than it can do, under a virtual clock."""

import random
from statistics import median

import pytest

from support.fakes.queued_engine import LIMITS, STEP_SECONDS, Caller, QueuedEngine

SEATS = 16
TOKENS = 16
CAPACITY = SEATS / (TOKENS * STEP_SECONDS)
"""Requests a second."""
SECONDS = 60.0


def open_loop(engine: QueuedEngine, overload: float, returning: float, seed: int = 1) -> None:
    """Callers that come whether or not others are served; a part of them return if refused."""
    draw = random.Random(seed)
    time = 0.0
    while (time := time + draw.expovariate(overload * CAPACITY)) < SECONDS:
        patience = int(draw.random() < returning)
        engine.add(Caller(f"r{len(engine.callers)}", time, num_tokens=TOKENS, patience=patience))


def test_four_times_what_it_can_do() -> None:
    engine = QueuedEngine(SEATS)
    open_loop(engine, 4, returning=0.01)
    engine.run(SECONDS)
    done = [caller for caller in engine.callers if caller.ended is not None]
    assert len(done) >= 0.92 * SECONDS * CAPACITY
    first = [each.began - each.attempts[-1] for each in engine.callers if each.began is not None]
    assert median(first) <= 2
    delays = [delay for caller in engine.callers for delay in caller.delays]
    assert len(delays) > 2 * len(done) and min(delays) > 0 and max(delays) <= 10
    engine.run(SECONDS + 20)
    probes = [caller for caller in engine.callers if len(caller.attempts) == 2]
    assert len(probes) > 40
    assert sum(caller.began is not None for caller in probes) >= 0.9 * len(probes)


def test_those_refused_together_return_one_after_the_other() -> None:
    engine = QueuedEngine(SEATS)
    open_loop(engine, 4, returning=0.0)
    engine.run(SECONDS / 2)
    for number in range(200):
        engine.add(Caller(f"late {number}", engine.now))
    engine.run(engine.now + STEP_SECONDS)
    late = [each for each in engine.callers if each.name.startswith("late") and each.delays]
    turns = [caller.attempts[0] + caller.delays[0] for caller in late]
    assert len(turns) > 150
    for start in range(10):
        # With a margin of a half, since the speed is measured.
        assert sum(start <= turn - engine.now < start + 1 for turn in turns) <= 1.5 * CAPACITY


def test_if_all_return_they_are_told_to_later_and_most_are_taken_then() -> None:
    engine = QueuedEngine(SEATS)
    open_loop(engine, 1.5, returning=1.0)
    engine.run(SECONDS + 60)
    returned = [caller for caller in engine.callers if len(caller.attempts) == 2]
    assert len(returned) > 200
    assert sum(caller.began is not None for caller in returned) >= 0.9 * len(returned)


def test_a_burst_is_taken_whole_if_the_queue_was_short() -> None:
    engine = QueuedEngine(SEATS)
    for number in range(1000):
        engine.add(Caller(f"r{number}", 1.0 + number / 1000, num_tokens=TOKENS))
    engine.run(60)
    assert all(caller.ended is not None for caller in engine.callers)


@pytest.mark.parametrize("concurrency", [SEATS, 2 * SEATS])
def test_callers_that_wait_for_each_answer_are_not_refused(concurrency: int) -> None:
    """Even if requests run longer than others may wait."""
    engine = QueuedEngine(SEATS)
    callers = [Caller(f"c{number}", 0.0, num_tokens=200) for number in range(concurrency)]
    for caller in callers:
        engine.add(caller)
    for turn in range(1, 1500):
        engine.run(turn * 4 * STEP_SECONDS)
        for place, caller in enumerate(callers):
            if caller.ended is not None:
                callers[place] = Caller(f"{caller.name}.", engine.now, num_tokens=200)
                engine.add(callers[place])
    assert len(engine.callers) > 10 * concurrency
    assert not any(caller.delays for caller in engine.callers)


def test_requests_of_much_work_are_limited_and_others_pass_them() -> None:
    """374 requests with n = 128, beside one caller a second."""
    engine = QueuedEngine(64)
    for number in range(374):
        engine.add(Caller(f"heavy {number}", 5 + number / 100, 2030, 64, n=128))
    for second in range(60):
        engine.add(Caller(f"light {second}", float(second)))
    engine.run(60)
    light = [caller for caller in engine.callers if caller.name.startswith("light")]
    assert not any(caller.delays for caller in light)
    heavy = [caller for caller in engine.callers if caller.name.startswith("heavy")]
    admitted = [caller for caller in heavy if not caller.delays]
    assert 1 < len(admitted) < 100
    assert sum(each.demand.num_bytes for each in admitted) < LIMITS.max_num_bytes / 4
    # Two of them may run before it, each twice as long as a sequence since half of it has no seat.
    waits = [each.began - each.arrival for each in light[:50] if each.began is not None]
    assert len(waits) == 50 and max(waits) <= 2 * 2 * 64 * STEP_SECONDS
