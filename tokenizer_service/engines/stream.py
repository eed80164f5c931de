"""EngineStream: the outputs of one request, from the engines that run it to the request's reader.

It has one reader and belongs to one event loop. A reader that lags gets fewer and larger outputs:
those of the same continuation that wait are merged. So a stream needs no memory beyond its own
tokens, and an overloaded service catches up. Where its engine is lost the stream goes on at another
one, and its reader sees a pause.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from folovllm.errors import FolovError
from folovllm.serving.turns import MAX_ENTRIES
from folovllm.v1 import types_pb2
from tokenizer_service.engines.migration.origin import Origin

# Outputs that wait before they are merged. Merging one costs 1 % of sending it by itself.
_MERGE_AT = 2
# Token ids that a merged output may have.
_MAX_IDS = 1024


class StreamPart(Protocol):
    """Continuations of a stream that run together at one engine, or wait for one."""

    @property
    def indexes(self) -> Sequence[int]:
        """Those that have not ended."""

    def abort(self, indexes: Sequence[int]) -> None:
        """Asks the engine to end continuations."""

    def cancel(self) -> None:
        """Ends what is no longer read."""


class EngineStream:
    """Iterates over a request's outputs; ends after the final one of its last continuation.

        with engines.generate(command) as stream:
            async for output in stream:        # types_pb2.CompletionOutput
                stream.abort([output.index])   # a stop string has ended that continuation

    Raises FolovError. Leaving its context cancels at the engines what still runs.
    """

    def __init__(
        self,
        origin: Origin,
        on_end: Callable[["EngineStream"], None] = lambda _: None,
    ) -> None:
        """`on_end` is called once: when all outputs have come, or it has failed or was left."""
        self.origin = origin
        self.name = origin.name
        self.progress = origin.new_progress()
        """Of each continuation, by index."""
        self.infos = origin.new_infos()
        """What has come of the RequestInfo of each continuation, by index."""
        self.parts: list[StreamPart] = []
        """What its continuations run as; those that have ended may be in none."""
        self.addresses: list[str] = []
        """The engines that it was sent to, in that order."""
        self.was_read = origin.goes_on
        """Whether its reader has got anything, so that it can only go on."""
        self._num_unfinished = sum(not each.is_over for each in self.progress)
        self._on_end = on_end
        self.has_ended = False
        """Whether nothing more comes from engines."""
        self._outputs: deque[types_pb2.CompletionOutput] = deque()
        self._merge_at = _MERGE_AT
        self._error: FolovError | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def complete(self) -> bool:
        """Whether all outputs have come."""
        return self._num_unfinished == 0

    @property
    def info(self) -> types_pb2.RequestInfo | None:
        """What came of the RequestInfo of index 0, without its lists."""
        return self.infos[0].info

    def inherited(self) -> Sequence[int]:
        """What its continuations, if they are branches, begin with beyond the prompt."""
        return self.origin.inherited(self.infos)

    # What engines send.

    def take_info(self, output: types_pb2.CompletionOutput) -> bool:
        """Counts the RequestInfo of an output, and removes what came before from another engine.

        Returns whether the output has anything left.
        """
        self.infos[output.index].take(output.info)
        if not output.info.ByteSize():
            output.ClearField("info")
        return output.HasField("info") or bool(output.token_ids or output.finish_reason)

    def put(self, output: types_pb2.CompletionOutput) -> None:
        """Adds an output, after those that have not been read; `wake` tells the reader."""
        self.progress[output.index].add(output)
        self._add(output)
        if output.finish_reason:
            self._num_unfinished -= 1
            if self.complete:
                self._finish()

    def put_ids(self, index: int, token_ids: Sequence[int]) -> None:
        """As `put`, of an output that has nothing but token ids."""
        self.progress[index].token_ids.extend(token_ids)
        output = types_pb2.CompletionOutput()
        output.request_id = self.name
        output.index = index
        output.token_ids.extend(token_ids)
        self._add(output)

    def wake(self) -> None:
        """Lets the reader continue."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def end(self, error: FolovError) -> None:
        """Ends it with an error, after the outputs that wait; if none was read they are dropped."""
        if self.has_ended:
            return
        if not self.was_read:
            self._outputs.clear()
        self._error = error
        self._leave()
        self.wake()

    def forget(self, indexes: Sequence[int]) -> None:
        """Drops all that came of continuations, of which nothing was read: they begin again."""
        progress, infos = self.origin.new_progress(), self.origin.new_infos()
        for index in indexes:
            self._num_unfinished += self.progress[index].is_over
            self.progress[index], self.infos[index] = progress[index], infos[index]
        kept = (each for each in self._outputs if each.index not in indexes)
        self._outputs = deque(kept)

    # What its reader does.

    def abort(self, indexes: Sequence[int]) -> None:
        """Ends continuations at the engine; they still get their final outputs, as ABORT."""
        for index in indexes:
            self.progress[index].aborted = True
        for part in self.parts:
            if own := [index for index in part.indexes if index in indexes]:
                part.abort(own)

    def __enter__(self) -> "EngineStream":
        return self

    def __exit__(self, *error: object) -> None:
        if not self.has_ended:
            self._leave()

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
        self.was_read = True
        return self._outputs.popleft()

    def _leave(self) -> None:
        self._finish()
        for part in self.parts:
            part.cancel()

    def _finish(self) -> None:
        self.has_ended = True
        self._on_end(self)

    def _add(self, output: types_pb2.CompletionOutput) -> None:
        self._outputs.append(output)
        if len(self._outputs) >= self._merge_at:
            self._merge()

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
