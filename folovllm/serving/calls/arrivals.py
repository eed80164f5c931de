"""Arrivals: after many calls have come at once, they begin in turns.

gRPC hands calls over in the order of their arrival, one in each round of the event loop. What comes
after a thousand of them, a question about health for example, is handed over a thousand rounds
later. So calls wait until no more are handed over, which keeps the rounds short, and then begin a
few at a time, which keeps them short for the streams that run.
"""

import asyncio
from collections import deque

# Calls that begin without waiting for a turn: so many at once, and so many a second.
_BURST, _PER_SECOND = 16, 1000.0
# Seconds between two turns, in which gRPC hands over several calls if it has them.
_INTERVAL = 0.001
# Calls that begin in a turn: if none was handed over since the last one; and if some were, since it
# may go on so for ever.
_QUIET, _BUSY = 8, 1


class Arrivals:
    """The calls of a server that have arrived and not begun. Belongs to one event loop."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._num_free = float(_BURST)  # calls that may begin without waiting
        self._updated = 0.0
        self._has_arrived = False  # any since the last turn

    async def turn(self) -> None:
        """Returns when a call that has arrived may begin, in order of arrival."""
        loop = asyncio.get_running_loop()
        self._has_arrived = True
        if not self._waiting and self._takes_free(loop.time()):
            return
        turn = loop.create_future()
        self._waiting.append(turn)
        if len(self._waiting) == 1:
            loop.call_later(_INTERVAL, self._give_turns, loop)
        await turn

    def _takes_free(self, now: float) -> bool:
        num_new = (now - self._updated) * _PER_SECOND
        self._num_free, self._updated = min(self._num_free + num_new, _BURST), now
        if self._num_free < 1:
            return False
        self._num_free -= 1
        return True

    def _give_turns(self, loop: asyncio.AbstractEventLoop) -> None:
        count = _BUSY if self._has_arrived else _QUIET
        self._has_arrived = False
        while self._waiting and count:
            turn = self._waiting.popleft()
            if not turn.done():  # the call was cancelled
                turn.set_result(None)
                count -= 1
        if self._waiting:
            loop.call_later(_INTERVAL, self._give_turns, loop)
