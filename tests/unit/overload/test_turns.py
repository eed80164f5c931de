"""The times that those refused are given, whatever comes in whatever order."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from engine_service.overload import refused_requests
from engine_service.overload.demand import Demand
from engine_service.overload.refused_requests import RefusedRequests, Turn
from engine_service.overload.turns import Turns

waits = st.floats(0, 20)
lengths = st.floats(0.001, 50)


def turn_at(time: float) -> Turn:
    return Turn(time, arrival=0.0, demand=Demand(1, 1))


@given(st.lists(st.tuples(st.floats(0, 5), waits, lengths, st.floats(0, 1)), max_size=50))
def test_a_turn_is_neither_too_soon_nor_too_late(
    bookings: list[tuple[float, float, float, float]],
) -> None:
    turns, now = Turns(), 100.0
    for passed, wait, seconds, share in bookings:
        now += passed
        delay = turns.book(now, wait, seconds, share) - now
        assert wait - 1e-6 <= delay <= max(10.0, 60 * share, wait + 2) + 1e-6


@given(st.integers(1, 40), st.floats(0, 5), st.floats(0.01, 1))
def test_those_refused_at_one_time_return_one_after_the_other(
    number: int, wait: float, seconds: float
) -> None:
    turns = Turns()
    times = [turns.book(0.0, wait, seconds, 0.0) for _ in range(number)]
    laps = [index for index, (one, other) in enumerate(pairwise(times)) if other < one]
    for one, other in pairwise(times):
        assert other < one or abs(other - one - seconds) < 1e-6
    # They begin again only when they have come to the end.
    assert all(times[lap] + seconds > 10 - 1e-6 for lap in laps)


def test_a_turn_is_good_for_a_while_and_once() -> None:
    refused = RefusedRequests()
    refused.remember("a", turn_at(3.0))
    for now in (0.0, 3.0, 7.9):
        assert refused.find("a", now) == turn_at(3.0)
    assert refused.find("a", 8.1) is None and refused.find("b", 0.0) is None
    refused.remember("a", turn_at(20.0))
    refused.forget("a")
    assert refused.find("a", 20.0) is None and len(refused) == 0


def test_more_names_push_nobody_out() -> None:
    refused = RefusedRequests()
    for number in range(refused_requests._MAX_TURNS + 5):
        refused.remember(str(number), turn_at(1.0))
    assert len(refused) == refused_requests._MAX_TURNS
    assert refused.find("0", 1.0) is not None
    assert refused.find(str(refused_requests._MAX_TURNS), 1.0) is None
    refused.remember("x" * 257, turn_at(1.0))
    assert refused.find("0", 100.0) is None and len(refused) == 0  # all have passed
    refused.remember("x" * 257, turn_at(100.0))
    assert len(refused) == 0


def test_how_many_return_is_learned() -> None:
    refused = RefusedRequests()
    assert refused.returning_share < 0.1
    for number in range(300):
        refused.remember(str(number), turn_at(1.0))
        refused.forget(str(number))
    assert refused.returning_share > 0.7
    for number in range(600):
        refused.remember(str(number), turn_at(1.0))
    refused.find("", 50.0)
    assert refused.returning_share < 0.1
