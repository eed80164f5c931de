"""HandOver: wakes the readers of streams in rounds, seldom enough that the service keeps up.

To write a message costs the service as much for one token as for twenty. Each round measures how
long the event loop was busy with the readers that it woke. The next one comes at once where that
was short, and else after the same time again: pieces that arrive meanwhile are merged, so that a
service that has too much to do sends fewer and larger messages instead of falling behind.
"""

import asyncio

from tokenizer_service.engines.stream import EngineStream

# Seconds of work in one round from which on the next one waits.
_LONG = 0.001


class HandOver:
    """The readers that have something to take. Belongs to the event loop that it is made in."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._streams: dict[EngineStream, None] = {}
        self._round_runs = False

    def add(self, stream: EngineStream) -> None:
        """Has a stream's reader woken in the next round."""
        self._streams[stream] = None

    def run(self) -> None:
        """Begins a round, unless one runs; then the next one has what was added."""
        if self._round_runs or not self._streams:
            return
        self._round_runs = True
        started = self._loop.time()
        streams, self._streams = self._streams, {}
        for stream in streams:
            stream.wake()
        # Comes after all that was woken has had its turn.
        self._loop.call_soon(self._end_round, started)

    def _end_round(self, started: float) -> None:
        busy = self._loop.time() - started
        if busy < _LONG:
            self._begin_next()
        else:
            self._loop.call_later(busy, self._begin_next)

    def _begin_next(self) -> None:
        self._round_runs = False
        self.run()
