"""Whether what an engine has failed goes to another, and when no more."""

import pytest

from folovllm.errors import (
    EngineDeadError,
    FolovError,
    InvalidRequestError,
    QueueFullError,
    RequestFailedError,
    RequestLostError,
    UnavailableError,
)
from support.fakes.stream_home import StreamHome
from tokenizer_service.engines.migration.attempts import Attempts, Failure

GONE = UnavailableError("gone")
LOST = Failure(GONE, admitted=True, scheduled=True)
QUEUED = Failure(GONE, admitted=True)


def failed(*failures: Failure) -> tuple[Attempts, list[FolovError | None]]:
    """What each of the engines a, b, c … leads to."""
    attempts, ends = Attempts(), []
    for address, failure in zip("abcdefgh", failures, strict=False):
        attempts.begin(StreamHome(address))
        ends.append(attempts.fail(failure))
    return attempts, ends


def addresses(attempts: Attempts) -> str:
    """Of the engines that were tried."""
    return "".join(each.address for each in attempts.tried)


def test_one_lost_without_a_word_is_tried_once_more_as_a_suspect() -> None:
    attempts, (first,) = failed(LOST)
    assert first is None and attempts.is_suspect and attempts.was_admitted
    attempts.begin(StreamHome("b"))
    final = attempts.fail(LOST)
    assert isinstance(final, RequestLostError) and "gone" in str(final)
    assert addresses(attempts) == "ab"


def test_a_new_token_clears_it() -> None:
    attempts, ends = failed(LOST)
    for address in "bcdefg":
        attempts.begin(StreamHome(address))
        attempts.succeed()
        assert not attempts.is_suspect
        ends.append(attempts.fail(LOST))
        assert addresses(attempts) == address
    assert ends == [None] * 7


@pytest.mark.parametrize("error", [QueueFullError("full"), UnavailableError("drains")])
def test_what_is_refused_goes_to_others_but_not_to_all(error: FolovError) -> None:
    attempts, ends = failed(*[Failure(error)] * 3)
    assert ends == [None, None, error]
    assert not attempts.is_suspect and not attempts.was_admitted


def test_one_that_was_refused_for_load_may_return_once_it_has_had_its_place() -> None:
    full = Failure(QueueFullError("full"))
    attempts, ends = failed(full, full, QUEUED)
    assert ends == [None] * 3
    assert addresses(attempts) == "c"


def test_a_silent_engine_may_be_tried_again() -> None:
    attempts = Attempts()
    silent = StreamHome("a")
    attempts.begin(silent)
    assert attempts.fail(QUEUED) is None
    attempts.leave(silent)
    attempts.begin(StreamHome("b"))
    assert addresses(attempts) == "b"


def test_what_was_not_begun_goes_on_as_long_as_there_are_engines() -> None:
    attempts, ends = failed(*[QUEUED] * 8)
    assert ends == [None] * 8
    assert not attempts.is_suspect and attempts.was_admitted


def test_the_caller_is_told_the_shortest_delay_and_who_has_given_it() -> None:
    attempts, ends = failed(*(Failure(QueueFullError("full", seconds)) for seconds in (3, 2, 5)))
    final = ends[-1]
    assert isinstance(final, QueueFullError) and final.retry_after == 2
    assert attempts.refused_by == "b"


def test_the_delay_is_told_too_where_the_last_engine_has_gone() -> None:
    attempts, _ = failed(Failure(QueueFullError("full", 2)), Failure(UnavailableError("drains")))
    final = attempts.final(UnavailableError("drains"))
    assert isinstance(final, QueueFullError) and final.retry_after == 2


def test_what_had_its_place_is_not_told_to_return() -> None:
    attempts, _ = failed(LOST, Failure(QueueFullError("full")))
    final = attempts.final(QueueFullError("full"))
    assert isinstance(final, UnavailableError) and "full" in str(final)


@pytest.mark.parametrize("scheduled", [True, False])
def test_what_a_dead_engine_says_counts(scheduled: bool) -> None:
    dead = Failure.told(EngineDeadError("dead", scheduled), scheduled=not scheduled)
    attempts, ends = failed(dead, dead)
    assert ends[0] is None and attempts.was_admitted
    assert isinstance(ends[1], RequestLostError) is scheduled


def test_what_an_engine_gives_up_that_had_begun_it_was_admitted_and_is_no_suspect() -> None:
    attempts, ends = failed(Failure.told(UnavailableError("shuts down"), scheduled=True))
    assert ends == [None] and attempts.was_admitted and not attempts.is_suspect


@pytest.mark.parametrize(
    "error", [RequestFailedError("NaN", "r"), InvalidRequestError("request_id", "no")]
)
def test_what_is_the_requests_own_fault_is_final(error: FolovError) -> None:
    assert failed(Failure.told(error, scheduled=True))[1] == [error]
