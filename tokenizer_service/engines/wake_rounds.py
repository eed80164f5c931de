"""WakeRounds: when the readers of streams are woken, as often as the service can keep up with."""

import asyncio

from tokenizer_service.engines.stream import EngineStream

# Seconds of work in one round from which on the next one is delayed.
_LONG_ROUND = 0.001


class WakeRounds:
    """Wakes the readers of streams in rounds.

    Sending a message costs the same for one token as for twenty. Each round measures how long the
    event loop was busy with the readers it woke. The next one follows at once if that was short,
    else after as long again: outputs that arrive meanwhile are merged, so an overloaded service
    sends fewer and larger messages instead of falling behind. Belongs to one event loop.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._streams: dict[EngineStream, None] = {}
        self._round_runs = False

    def add(self, stream: EngineStream) -> None:
        """Has a stream's reader woken in the next round."""
        self._streams[stream] = None

    def run(self) -> None:
        """Begins a round, unless one runs; then the next one covers what was added."""
        if self._round_runs or not self._streams:
            return
        self._round_runs = True
        started = self._loop.time()
        streams, self._streams = self._streams, {}
        for stream in streams:
            stream.wake()
        # Runs after everything that was woken.
        self._loop.call_soon(self._end_round, started)

    def _end_round(self, started: float) -> None:
        busy = self._loop.time() - started
        if busy < _LONG_ROUND:
            self._begin_next()
        else:
            self._loop.call_later(busy, self._begin_next)

    def _begin_next(self) -> None:
        self._round_runs = False
        self.run()
