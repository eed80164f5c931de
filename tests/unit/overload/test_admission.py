"""Who is admitted, who is refused, and who gains nothing by trying."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_service.config import SchedulerConfig
from engine_service.overload.admission import Admission
from engine_service.overload.demand import Demand
from engine_service.overload.queue_limits import UNLIMITED, QueueLimits, queue_limits
from engine_service.overload.ticket import Ticket
from folovllm.errors import QueueFullError
from folovllm.model_info import ModelInfo

LIMITS = QueueLimits(8, 10_000, 100_000, 600.0, None, 1000)
SMALL = Demand(1000, 10, 1, 10, 20)


def delay_of(admission: Admission, name: str, now: float, demand: Demand = SMALL) -> float:
    """What a request is told that is refused."""
    with pytest.raises(QueueFullError) as refused:
        admission.admit(name, demand, now, now)
    return refused.value.retry_after


def filled(limits: QueueLimits = LIMITS) -> tuple[Admission, list[Ticket]]:
    """One that admits no more, since so many wait."""
    admission = Admission(limits)
    return admission, [admission.admit(f"first {i}", SMALL, 0.0, 0.0) for i in range(8)]


def test_what_is_over_a_limit_is_refused_and_admitted_later() -> None:
    admission, tickets = filled()
    assert admission.num_admissible == 0
    assert delay_of(admission, "a", 0.0) > 0
    for ticket in tickets:
        assert admission.begin(ticket, 1.0) == 10
        admission.end(ticket, 1.0, 5)
    admission.admit("b", SMALL, 1.0, 1.0)


def test_what_has_moved_here_is_never_refused_and_counts_for_others() -> None:
    admission, tickets = filled()
    turn = delay_of(admission, "refused", 0.0)
    heavy = Demand(90_000, 50_000, 4, 99, 60_000)
    moved = [admission.admit(f"moved {i}", heavy, -5.0, 0.0, moved=True) for i in range(9)]
    # It is queued by when it came, though it is much work.
    assert [(each.arrival_time, each.handicap) for each in moved] == [(-5.0, 0.0)] * 9
    late = admission.admit("refused", SMALL, 0.1, 0.1, moved=True)
    assert turn > 0.1 and late.arrival_time == 0.0  # before its turn, which is forgotten
    for ticket in (*tickets, late):
        admission.begin(ticket, 1.0)
        admission.end(ticket, 1.0, 5)
    assert admission.num_admissible == 0 and delay_of(admission, "b", 1.0) > 0
    for ticket in moved:
        admission.begin(ticket, 2.0)
        admission.end(ticket, 2.0, 5)
    admission.admit("c", SMALL, 2.0, 2.0)


@pytest.mark.parametrize(
    "demand", [Demand(200_000, 10), Demand(1000, 50_000), Demand(1, 1, 99, 999)]
)
def test_a_request_over_every_limit_runs_if_nothing_is_before_it(demand: Demand) -> None:
    admission = Admission(LIMITS)
    ticket = admission.admit("a", demand, 0.0, 0.0)
    assert delay_of(admission, "b", 0.0, demand) > 0
    admission.begin(ticket, 1.0)
    admission.end(ticket, 1.0, 1)
    admission.admit("b", demand, 1.0, 1.0)


def test_bytes_are_held_until_the_end() -> None:
    admission = Admission(LIMITS)
    half = replace(SMALL, num_bytes=60_000)
    ticket = admission.admit("a", half, 0.0, 0.0)
    admission.begin(ticket, 0.0)
    assert delay_of(admission, "b", 0.0, half) > 0
    admission.end(ticket, 1.0, 3)
    admission.end(ticket, 1.0, 3)  # which changes nothing
    again = admission.admit("b", half, 10.0, 10.0)
    admission.end(again, 10.0)  # withdrawn before it began
    assert len([admission.admit(f"8 {i}", SMALL, 10.0, 10.0) for i in range(8)]) == 8
    assert admission.num_admissible == 0


def test_work_is_before_others_until_it_has_begun() -> None:
    admission = Admission(LIMITS)
    first = admission.admit("a", Demand(10, 6000), 0.0, 0.0)
    assert delay_of(admission, "b", 0.0, Demand(10, 6000)) > 0
    admission.begin(first, 0.0)
    admission.admit("c", Demand(10, 6000), 0.0, 0.0)


def test_a_caller_that_returns_at_its_turn_goes_before_newcomers() -> None:
    admission, tickets = filled()
    turn = 1.0 + delay_of(admission, "a", 1.0)
    admission.begin(tickets[0], turn)
    admission.begin(tickets[1], turn)
    assert delay_of(admission, "new", turn) > 0  # though there is a place
    ticket = admission.admit("a", SMALL, turn, turn)
    assert ticket.arrival_time == 1.0  # before all that came since
    assert delay_of(admission, "a", turn) > 0  # only once


def test_who_returns_too_early_keeps_the_turn_unless_nothing_waits() -> None:
    admission, tickets = filled()
    turn = delay_of(admission, "a", 0.0)
    admission.begin(tickets[0], turn / 2)
    for part in (0.25, 0.5, 0.75):
        assert delay_of(admission, "a", turn * part) == pytest.approx(turn * (1 - part))
    for ticket in tickets[1:]:
        admission.begin(ticket, turn / 2)
    admission.admit("a", SMALL, 0.9 * turn, 0.9 * turn)


def test_a_turn_is_good_for_what_was_asked_and_for_a_while() -> None:
    for demand, late in ((replace(SMALL, num_sequences=2), 0.0), (SMALL, 5.1)):
        admission, tickets = filled()
        turn = delay_of(admission, "a", 0.0) + late
        delay_of(admission, "other", turn)
        admission.begin(tickets[0], turn)
        assert delay_of(admission, "a", turn, demand) > 0


def test_who_waited_too_long_keeps_the_time_of_arrival() -> None:
    admission, tickets = filled()
    admission.end(tickets[3], 600.0)
    turn = 600.0 + admission.give_up("first 3", tickets[3], 600.0)
    assert admission.admit("first 3", SMALL, turn, turn).arrival_time == 0.0


def test_the_speed_is_that_of_a_full_engine_and_bounds_the_wait() -> None:
    admission = Admission(QueueLimits(1000, 1e9, 1e9, 20.0, None, 1000))
    admission.step(0.0, 50, saturated=False)  # alone it would be slow
    now = 100.0
    for i in range(100):
        admission.admit(str(i), Demand(10, 90, 1, 10), now, now)
    for _ in range(10):
        now += 0.1
        admission.step(now, 100, saturated=True)
    # 10,000 tokens at 1,000 a second; so much more can start within 20 seconds.
    assert admission.num_admissible == 100
    for i in range(101):
        admission.admit(f"more {i}", Demand(10, 90, 1, 10), now, now)
    assert 0 < delay_of(admission, "late", now, Demand(10, 90, 1, 10)) < 1
    # It stands, and is too long: all have to wait until it is down to two seconds.
    admission.step(now + 2.5, 2500, saturated=True)
    assert 17 < delay_of(admission, "later", now + 2.5, Demand(10, 90, 1, 10)) < 21


def test_without_limits_everything_is_admitted() -> None:
    admission = Admission(UNLIMITED)
    for i in range(5000):
        admission.admit(str(i), Demand(10**9, 10**6, 128, 10**6), 0.0, 0.0)
    assert admission.num_admissible > 10**9


def test_limits_are_sized_by_the_model_and_the_host() -> None:
    config = SchedulerConfig(max_num_waiting=100, max_queue_seconds=7)
    large = ModelInfo(num_kv_blocks=10**5, block_size=10, device="cuda:0")
    limits = queue_limits(config, large, free_bytes=32 * 2**30)
    assert (limits.max_num_waiting, limits.max_num_tokens) == (100, 16 * 10**6)
    assert (limits.max_num_bytes, limits.max_seconds) == (2**30, 7)
    assert limits.ordinary_num_tokens == 8192
    small = queue_limits(config, ModelInfo(num_kv_blocks=1, block_size=16), free_bytes=2**20)
    assert (small.max_num_tokens, small.max_num_bytes) == (204_800, 64 * 2**20)


actions = st.lists(
    st.tuples(
        st.sampled_from(["come", "begin", "end", "pass"]),
        st.integers(0, 11),
        st.sampled_from([SMALL, Demand(30_000, 400, 4, 50), Demand(1000, 3000, 1, 5)]),
    ),
    max_size=80,
)


@settings(max_examples=60, deadline=None)
@given(actions)
def test_nothing_is_lost_and_no_limit_passed(plan: list[tuple[str, int, Demand]]) -> None:
    """Whatever callers do: the sums are those of the tickets, and a promised time comes closer."""
    admission, now = Admission(LIMITS), 0.0
    open_tickets: dict[str, Ticket] = {}
    promised: dict[str, tuple[float, Demand]] = {}
    for action, number, demand in plan:
        name = str(number)
        ticket = open_tickets.get(name)
        if action == "pass":
            now += number / 4
            admission.step(now, 50 * number, saturated=admission.num_admissible == 0)
        elif action == "come" and ticket is None:
            try:
                open_tickets[name] = admission.admit(name, demand, now, now)
                promised.pop(name, None)
            except QueueFullError as error:
                turn = now + error.retry_after
                if name in promised and now < promised[name][0] and demand == promised[name][1]:
                    assert turn == pytest.approx(promised[name][0])  # neither sooner nor later
                else:
                    promised[name] = turn, demand
        elif action == "begin" and ticket is not None and ticket.began is None:
            admission.begin(ticket, now)
        elif action == "end" and ticket is not None:
            admission.end(open_tickets.pop(name), now, None if ticket.began is None else 3)
        waiting = [each for each in open_tickets.values() if each.began is None]
        assert len(waiting) <= 8
        held = sum(each.demand.num_bytes for each in open_tickets.values())
        assert held <= 100_000 or len(open_tickets) == 1
        check_sums(admission, waiting, held)


def check_sums(admission: Admission, waiting: list[Ticket], num_bytes: int) -> None:
    """What the admission has counted is what there is."""
    work = admission._waiting
    assert admission._num_bytes == num_bytes and work.num_requests == len(waiting)
    assert work.num_tokens == pytest.approx(sum(each.num_tokens for each in waiting))
    assert -1e-6 <= work.num_tokens_ahead <= work.num_tokens + 1e-6


def told(check: Callable[[], object]) -> str:
    with pytest.raises(QueueFullError) as refused:
        check()
    return str(refused.value)


def test_the_refusal_says_what_to_do() -> None:
    admission, _ = filled()
    message = told(lambda: admission.admit("a", SMALL, 0.0, 0.0))
    assert "8 requests wait" in message and "with the same request_id" in message
