"""OutputStream: the outputs that one caller has not read yet. Belongs to the event loop.

A slow reader delays nobody and costs little memory: pieces of the same continuation that it has not
read are merged, up to a bound that keeps each within one message.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable

from engine_service.engine.delivery.row_routes import RowRoutes, RowSink
from folovllm.errors import FolovError
from folovllm.outputs import CompletionOutput
from folovllm.serving.turns import MAX_ENTRIES

# Token ids in a merged piece.
_MAX_IDS = 1024


class OutputStream:
    """Iterates over a request's outputs; ends after the last of its n continuations.

    A caller that reads many streams sets `notify`, which every change calls, and drains them; see
    `send_rows`.
    """

    def __init__(self, name: str, n: int, routes: RowRoutes | None = None) -> None:
        """`routes` are the engine's."""
        self.name = name
        self._routes = routes
        self._sink: RowSink | None = None
        self._handle = 0
        self._routed: set[int] = set()  # the indexes that have or had a route
        self._num_unfinished = n
        self._pending: deque[CompletionOutput] = deque()
        self._mergeable: dict[int, CompletionOutput] = {}  # the last pending of each index
        self._changed = asyncio.Event()
        self.notify: Callable[[], None] = self._changed.set
        self.error: FolovError | None = None
        """What ended the stream, after everything pending."""
        self._closed = False
        self.started = False
        """Whether there was any output."""
        self.scheduled = False
        """Whether a step has begun that computes it; see `set_scheduled`."""
        self.num_tokens = 0
        """Tokens of the outputs that have ended."""

    @property
    def complete(self) -> bool:
        """Whether the engine has sent all outputs."""
        return self._num_unfinished == 0

    def put(self, output: CompletionOutput) -> None:
        """Adds a piece, after those that have not been read."""
        self.started = True
        if output.usage is not None:
            self.num_tokens += output.usage.completion_tokens
        self._num_unfinished -= output.finished()
        if self._closed:
            return
        if self._routed:
            self._remove_route(output.index)
        last = self._mergeable.get(output.index)
        if last is not None and _fits(last, output):
            last.append(output)
        else:
            self._pending.append(output)
            self._mergeable[output.index] = output
        self.notify()

    def set_scheduled(self) -> None:
        """A step begins that computes it."""
        self.scheduled = True
        if not self._closed:
            self.notify()

    def fail(self, error: FolovError) -> None:
        """Ends the stream with an error, after everything pending."""
        self.error = error
        if not self._closed:
            self.notify()

    def close(self) -> None:
        """Ends reading; later outputs are dropped."""
        self._closed = True
        self.drain()
        for index in self._routed:
            self._remove_route(index)

    def drain(self) -> list[CompletionOutput]:
        """Removes and returns everything pending, without waiting."""
        pieces = list(self._pending)
        self._pending.clear()
        self._mergeable.clear()
        return pieces

    def send_rows(self, sink: RowSink, handle: int) -> None:
        """What is only token ids goes to a sink, as the rows of `handle` plus the index.

        But not before `resume_rows`, nor past anything that waits here.
        """
        self._sink, self._handle = sink, handle

    def resume_rows(self, pieces: Iterable[CompletionOutput]) -> None:
        """The pieces, which were drained, are where they belong, and rows may follow them."""
        if self._sink is None or self._closed:
            return
        assert self._routes is not None
        for piece in pieces:
            if not piece.finished() and piece.index not in self._mergeable:
                self._routed.add(piece.index)
                self._routes.set((self.name, piece.index), self._sink, self._handle + piece.index)

    @property
    def handles(self) -> list[int]:
        """Under which there may have been rows."""
        return [self._handle + index for index in self._routed]

    def handles_of(self, pieces: Iterable[CompletionOutput]) -> list[int]:
        """The same, of the continuations of pieces."""
        indexes = {piece.index for piece in pieces}
        return [self._handle + index for index in self._routed if index in indexes]

    def _remove_route(self, index: int) -> None:
        assert self._routes is not None
        self._routes.remove((self.name, index))

    def __aiter__(self) -> "OutputStream":
        return self

    async def __anext__(self) -> CompletionOutput:
        while not self._pending:
            if self.error is not None:
                raise self.error
            if self.complete:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        piece = self._pending.popleft()
        if self._mergeable[piece.index] is piece:
            del self._mergeable[piece.index]
        return piece


def _fits(last: CompletionOutput, output: CompletionOutput) -> bool:
    """Whether two pieces make one that does not take long to send."""
    num_ids = len(last.token_ids) + len(output.token_ids)
    if not last.logprobs:
        return num_ids <= _MAX_IDS
    return num_ids * (1 + len(last.logprobs[0].top)) <= MAX_ENTRIES and num_ids <= _MAX_IDS
