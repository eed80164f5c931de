"""Perseverance: which errors of a stream are raised, and which are only a pause."""

import pytest

from folovllm.errors import (
    CancelledRequestError,
    ConnectionLostError,
    FolovError,
    InvalidRequestError,
    QueueFullError,
    RequestLostError,
    UnavailableError,
    UnreachableError,
)
from folovllm_client.api.calls.perseverance import Perseverance

LOST = ConnectionLostError("reset")


@pytest.mark.parametrize(
    "error",
    [
        RequestLostError("twice"),
        CancelledRequestError("replaced"),
        InvalidRequestError("resume", "wrong"),
    ],
)
@pytest.mark.parametrize("has_begun", [False, True])
def test_what_is_not_to_be_retried_is_raised(error: FolovError, has_begun: bool) -> None:
    with pytest.raises(type(error)):
        Perseverance(None, 3).delay(error, has_begun, has_begun)


def test_before_the_first_message_only_a_broken_connection_is_made_again() -> None:
    assert Perseverance(None, 1).delay(LOST, False, False) > 0
    for error in (
        UnavailableError("no engine"),
        UnreachableError("nobody"),
        QueueFullError("full"),
    ):
        with pytest.raises(type(error)):
            Perseverance(None, 1).delay(error, False, False)


def test_each_server_is_asked_once_for_the_first_message() -> None:
    several = Perseverance(None, 3)
    several.delay(UnreachableError("a"), False, False)
    several.delay(UnavailableError("b drains"), False, False)
    with pytest.raises(UnavailableError, match="c has no engine"):
        several.delay(UnavailableError("c has no engine"), False, False)


def test_pauses_grow_and_end_and_a_message_begins_anew() -> None:
    stream = Perseverance(None, 1)
    pauses = [stream.delay(UnreachableError("starts"), True, False) for _ in range(13)]
    assert pauses == sorted(pauses) and pauses[-1] == 2.0 and 15 < sum(pauses) < 20
    assert stream.delay(LOST, True, True) == pauses[0]
    for _ in range(12):
        stream.delay(LOST, True, False)
    with pytest.raises(ConnectionLostError):
        stream.delay(LOST, True, False)


def test_a_server_without_room_says_when_to_return() -> None:
    assert Perseverance(None, 1).delay(QueueFullError("full", 3.5), True, True) == 3.5


def test_the_deadline_is_for_all_calls_together() -> None:
    now = 100.0
    stream = Perseverance(10.0, 1, clock=lambda: now)
    assert stream.seconds_left == 10.0
    now = 104.0
    pause = stream.delay(LOST, True, True)
    assert stream.seconds_left == 6.0 - pause
    now = 109.99
    with pytest.raises(ConnectionLostError):
        stream.delay(LOST, True, True)
