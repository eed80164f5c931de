"""Where a request is tried again, and when no more."""

from collections.abc import Container

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
from tokenizer_service.engines.migration.attempts import Attempts

LOST = UnavailableError("gone")


class Engines:
    """Engines a, b, c, d, of which the first that was not tried is taken; `full` have no room."""

    def __init__(self, names: str = "abcd", full: str = "") -> None:
        self._names = names
        self._full = full
        self.taken: list[str] = []
        self.attempts = Attempts("a", self.begin)

    def begin(self, tried: Container[str], needs_room: bool) -> str | None:
        found = [name for name in self._names if name not in tried]
        found = [name for name in found if not needs_room or name not in self._full]
        self.taken += found[:1]
        return found[0] if found else None


def test_one_lost_without_a_word_is_tried_once_more() -> None:
    engines = Engines()
    assert engines.attempts.try_again(LOST, scheduled=True) is None
    final = engines.attempts.try_again(LOST, scheduled=True)
    assert isinstance(final, RequestLostError) and "gone" in str(final)
    assert engines.taken == ["b"]


@pytest.mark.parametrize("error", [LOST, QueueFullError("full")])
def test_what_was_not_begun_goes_to_others_but_not_to_all(error: FolovError) -> None:
    engines = Engines()
    for _ in range(2):
        assert engines.attempts.try_again(error, scheduled=False) is None
    assert engines.attempts.try_again(error, scheduled=False) is error
    assert engines.taken == ["b", "c"]


def test_what_is_refused_goes_only_where_there_is_room() -> None:
    engines, refusal = Engines(full="bcd"), QueueFullError("full", retry_after=4)
    assert engines.attempts.try_again(refusal, scheduled=False) is refusal
    assert engines.taken == [] and engines.attempts.refused_by == "a"
    lost = Engines(full="bcd")
    assert lost.attempts.try_again(LOST, scheduled=False) is None
    assert lost.taken == ["b"]  # which may have room by the time it is asked


def test_the_caller_is_told_the_shortest_delay_and_who_has_given_it() -> None:
    engines = Engines()
    for seconds in (3, 2):
        refusal = QueueFullError("full", retry_after=seconds)
        assert engines.attempts.try_again(refusal, scheduled=False) is None
    final = engines.attempts.try_again(QueueFullError("full", retry_after=5), scheduled=False)
    assert isinstance(final, QueueFullError) and final.retry_after == 2
    assert engines.attempts.refused_by == "b"


@pytest.mark.parametrize("scheduled", [True, False])
def test_what_a_dead_engine_says_counts(scheduled: bool) -> None:
    engines, dead = Engines(), EngineDeadError("dead", scheduled)
    assert engines.attempts.try_again(dead, scheduled=not scheduled) is None
    second = engines.attempts.try_again(dead, scheduled=not scheduled)
    assert isinstance(second, RequestLostError) is scheduled


@pytest.mark.parametrize(
    "error", [RequestFailedError("NaN", "r"), InvalidRequestError("request_id", "no")]
)
def test_what_is_the_requests_own_fault_is_final(error: FolovError) -> None:
    engines = Engines()
    assert engines.attempts.try_again(error, scheduled=True) is error
    assert engines.taken == []


def test_without_another_engine_the_error_stays() -> None:
    assert Engines("a").attempts.try_again(LOST, scheduled=True) is LOST


def test_what_another_engine_refuses_at_once_is_the_end() -> None:
    refusal = InvalidRequestError("request_id", "running already")

    def refuse(tried: Container[str], needs_room: bool) -> str | None:
        raise refusal

    assert Attempts("a", refuse).try_again(LOST, scheduled=True) is refusal
