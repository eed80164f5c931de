"""Silences: whether an engine that says nothing hangs alone, or all of them are out of reach."""

import asyncio
from collections.abc import Callable, Sequence

from tokenizer_service.engines.session import EngineSession


class Silences:
    """Tells the engines that hang from those that are cut off together with others.

    Two or more do not hang at once if they are half of all: rather this service is cut off. One
    that was cut off at the same time may be noticed up to a heartbeat later, so when an engine
    falls silent all others are asked for a sign of life first.
    """

    def __init__(self, time_to_answer: float, on_hanging: Callable[[EngineSession], None]) -> None:
        """`on_hanging` is told of a silent engine whose streams should go on elsewhere."""
        self._time_to_answer = time_to_answer
        self._on_hanging = on_hanging
        self._sessions: Sequence[EngineSession] = ()
        self._known: set[EngineSession] = set()  # those whose silence is known
        self._asked_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def consider(self, sessions: Sequence[EngineSession]) -> None:
        """Looks at the open sessions. To be called when any of them has changed."""
        self._sessions = sessions
        silent = {session for session in sessions if session.is_silent}
        if silent - self._known:
            self._asked_at = asyncio.get_running_loop().time()
            for session in sessions:
                session.ask()
        self._known = silent
        if silent and self._timer is None:
            self._wait()

    def close(self) -> None:
        """Waits for no more answers."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._time_to_answer, self._judge)

    def _judge(self) -> None:
        self._timer = None
        sessions = [session for session in self._sessions if session.is_open]
        silent = [session for session in sessions if session.is_silent]
        if not silent:
            return
        num_quiet = sum(
            session.is_silent or not session.was_heard_since(self._asked_at) for session in sessions
        )
        if num_quiet > 1 and 2 * num_quiet >= len(sessions):
            self._wait()
            return
        for session in silent:
            self._on_hanging(session)
