"""EngineStream: the outputs of one request, from an engine's session to the request's reader.

It has one reader and belongs to one event loop. A reader that lags gets fewer and larger outputs:
those of the same continuation that wait are merged. So a stream needs no memory beyond its own
tokens, and an overloaded service catches up.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from folovllm.errors import FolovError
from folovllm.serving.turns import MAX_ENTRIES
from folovllm.v1 import types_pb2

TOKENS_PER_CONTINUATION = 64
"""Outstanding tokens of a running continuation. How long it will become is unknown; this is the
length of a short answer, so that many running ones weigh as much as a long prompt."""

# Outputs that wait before they are merged. Merging one costs 1 % of sending it by itself.
_MERGE_AT = 2
# Token ids that a merged output may have.
_MAX_IDS = 1024
# Seconds of work in one round of WakeRounds from which on the next one is delayed.
_LONG_ROUND = 0.001


class StreamOwner(Protocol):
    """The session that a stream runs in."""

    def abort(self, stream: "EngineStream", indexes: Sequence[int]) -> None:
        """Asks the engine to end continuations."""

    def cancel(self, stream: "EngineStream") -> None:
        """Ends a stream that is no longer read."""


Retry = Callable[[FolovError, bool], FolovError | None]
"""Begins a request at another engine than the one that has failed it with this error, or returns
the error that it ends with. The bool is whether a step may have computed any of it."""


class EngineStream:
    """Iterates over a request's outputs; ends after the final one of its last continuation.

        with engines.generate(command) as stream:
            async for output in stream:        # types_pb2.CompletionOutput
                stream.abort([output.index])   # a stop string has ended that continuation

    Raises FolovError. Leaving its context cancels at the engine what still runs.
    """

    def __init__(
        self,
        name: str,
        num_prompt_tokens: int,
        num_continuations: int,
        retry: Retry | None = None,
    ) -> None:
        """`retry` is called if nothing was read before the request failed."""
        self.name = name
        self._num_prompt_tokens = num_prompt_tokens
        self._num_continuations = num_continuations
        self._retry = retry
        self._outputs: deque[types_pb2.CompletionOutput] = deque()
        self._merge_at = _MERGE_AT
        self._error: FolovError | None = None
        self._was_read = False
        self._waiter: asyncio.Future[None] | None = None

    def attach(self, owner: StreamOwner, wire_name: str) -> None:
        """Says which session it runs in from now on, and under which name, from the beginning."""
        self._owner = owner
        self.wire_name = wire_name
        """What the engine calls it; its outputs carry `name` when they are read."""
        self.scheduled = False
        """Whether it is known that a step computes it."""
        self._num_unstarted_tokens = self._num_prompt_tokens
        self._num_unfinished = self._num_continuations
        self.outstanding_tokens = (
            self._num_prompt_tokens + self._num_continuations * TOKENS_PER_CONTINUATION
        )
        """An estimate of what the engine still has to compute for it."""

    @property
    def complete(self) -> bool:
        """Whether the engine has sent everything."""
        return self._num_unfinished == 0

    def put(self, output: types_pb2.CompletionOutput) -> None:
        """Adds an output, after those that have not been read; `wake` tells the reader."""
        self.scheduled = True
        if self._num_unstarted_tokens:
            self.outstanding_tokens -= self._num_unstarted_tokens
            self._num_unstarted_tokens = 0
        if output.finish_reason:
            self.outstanding_tokens -= TOKENS_PER_CONTINUATION
            self._num_unfinished -= 1
        if self.wire_name is not self.name:
            output.request_id = self.name
        self._outputs.append(output)
        if len(self._outputs) >= self._merge_at:
            self._merge()

    def wake(self) -> None:
        """Lets the reader continue."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def fail(self, error: FolovError, scheduled: bool) -> None:
        """Ends it with an error, after the outputs that wait.

        If none was read they are dropped, and the request may run elsewhere instead. `scheduled` is
        whether a step may have computed any of it.
        """
        if not self._was_read:
            self._outputs.clear()
            if self._retry is not None:
                final = self._retry(error, scheduled)
                if final is None:
                    return
                error = final
        self._error = error
        self.wake()

    def end(self, error: FolovError) -> None:
        """Ends it at its engine, and with this error for its reader."""
        self._owner.cancel(self)
        self._outputs.clear()
        self._error = error
        self.wake()

    def abort(self, indexes: Sequence[int]) -> None:
        """Ends continuations at the engine; they still get their final outputs, as ABORT."""
        self._owner.abort(self, indexes)

    def __enter__(self) -> "EngineStream":
        return self

    def __exit__(self, *error: object) -> None:
        self._owner.cancel(self)

    def __aiter__(self) -> "EngineStream":
        return self

    async def __anext__(self) -> types_pb2.CompletionOutput:
        """The next output. Raises FolovError."""
        while not self._outputs:
            if self._error is not None:
                raise self._error
            if self.complete:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        self._was_read = True
        self._retry = None  # it holds the prompt
        return self._outputs.popleft()

    def _merge(self) -> None:
        """Merges the outputs of each continuation, into several if one would become too large."""
        last: dict[int, types_pb2.CompletionOutput] = {}
        merged: deque[types_pb2.CompletionOutput] = deque()
        for output in self._outputs:
            into = last.get(output.index)
            if into is None or not _fit(into, output):
                last[output.index] = output
                merged.append(output)
            else:
                into.MergeFrom(output)  # all fields but the names are deltas
        self._outputs = merged
        self._merge_at = max(_MERGE_AT, 2 * len(merged))


def _fit(into: types_pb2.CompletionOutput, output: types_pb2.CompletionOutput) -> bool:
    """Whether two outputs make one that does not take long to convert."""
    if output.HasField("info"):
        return False
    num_ids = len(into.token_ids) + len(output.token_ids)
    if num_ids > _MAX_IDS or not into.logprobs:
        return num_ids <= _MAX_IDS
    return num_ids * (1 + len(into.logprobs[0].top)) <= MAX_ENTRIES


class WakeRounds:
    """Wakes the readers of streams in rounds, as often as the service can keep up with.

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
