"""EngineStream: the pieces of one request of a session, up to its reader.

It has one reader and belongs to one event loop. A reader that lags gets fewer and larger pieces:
when several wait, those of the same continuation are merged. So it costs no memory beyond its own
tokens, and a service that has too much to do catches up.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from folovllm.errors import FolovError
from folovllm.v1 import types_pb2

TOKENS_PER_CONTINUATION = 64
"""What a continuation that runs counts among outstanding tokens. How long it will become no one
knows; this is what a short answer takes, so that many that run weigh as much as a long prompt."""

# Pieces that wait before they are merged. To merge one costs a hundredth of a message of its own.
_MERGE_AT = 2
# Positions with log-probabilities that a merged piece may have: 330 KiB at most.
_MOST_POSITIONS = 1024


class EngineStream:
    """Iterates over a request's pieces; ends after the final one of its last continuation."""

    def __init__(
        self,
        name: str,
        wire_name: str,
        num_prompt_tokens: int,
        num_continuations: int,
        on_abort: Callable[["EngineStream", Sequence[int]], None],
        on_close: Callable[["EngineStream"], None],
    ) -> None:
        self.name = name
        self.wire_name = wire_name
        """What the engine calls it; its pieces carry `name` when they are taken."""
        self.outstanding_tokens = num_prompt_tokens + num_continuations * TOKENS_PER_CONTINUATION
        """What the engine still has to compute for it, as far as one can say."""
        self._num_unstarted_tokens = num_prompt_tokens
        self._num_unfinished = num_continuations
        self._on_abort = on_abort
        self._on_close = on_close
        self._pieces: deque[types_pb2.CompletionOutput] = deque()
        self._merge_at = _MERGE_AT
        self._error: FolovError | None = None
        self._was_read = False
        self._waiter: asyncio.Future[None] | None = None

    @property
    def complete(self) -> bool:
        """Whether the engine has sent all that it ever will."""
        return self._num_unfinished == 0

    def put(self, piece: types_pb2.CompletionOutput) -> None:
        """Adds a piece, after those that the reader has not taken; `wake` tells the reader."""
        if self._num_unstarted_tokens:
            self.outstanding_tokens -= self._num_unstarted_tokens
            self._num_unstarted_tokens = 0
        if piece.finish_reason:
            self.outstanding_tokens -= TOKENS_PER_CONTINUATION
            self._num_unfinished -= 1
        if self.wire_name is not self.name:
            piece.request_id = self.name
        self._pieces.append(piece)
        if len(self._pieces) >= self._merge_at:
            self._merge()

    def wake(self) -> None:
        """Lets the reader take what there is."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def fail(self, error: FolovError) -> None:
        """Ends it with an error, after what waits.

        Where nothing was taken yet that is dropped: the request can run elsewhere as if new.
        """
        if not self._was_read:
            self._pieces.clear()
        self._error = error
        self.wake()

    def abort(self, indexes: Sequence[int]) -> None:
        """Asks the engine to end continuations; they still get their final pieces, as ABORT."""
        self._on_abort(self, indexes)

    def close(self) -> None:
        """Says that no one reads any more; what still runs is cancelled at the engine."""
        self._on_close(self)

    def __aiter__(self) -> "EngineStream":
        return self

    async def __anext__(self) -> types_pb2.CompletionOutput:
        """The next piece. Raises FolovError."""
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self.complete:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        self._was_read = True
        return self._pieces.popleft()

    def _merge(self) -> None:
        """Makes one piece of those of each continuation, by size several."""
        last: dict[int, types_pb2.CompletionOutput] = {}
        merged: deque[types_pb2.CompletionOutput] = deque()
        for piece in self._pieces:
            into = last.get(piece.index)
            if into is None or len(into.logprobs) + len(piece.logprobs) > _MOST_POSITIONS:
                last[piece.index] = piece
                merged.append(piece)
            else:
                into.MergeFrom(piece)  # all fields but the names are deltas
        self._pieces = merged
        self._merge_at = max(_MERGE_AT, 2 * len(merged))
