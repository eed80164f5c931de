"""OutputStream: the outputs that one caller has not read yet. Belongs to the event loop.

A slow reader delays nobody and costs little memory: pieces of the same continuation that it has not
read are merged, up to a bound that keeps each within one message.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from folovllm.errors import FolovError
from folovllm.outputs import CompletionOutput
from folovllm.serving.turns import MAX_ENTRIES

# Token ids in a merged piece.
_MAX_IDS = 1024


class OutputStream:
    """Iterates over a request's outputs; ends after the last of its n continuations.

    A caller that reads many streams sets `notify`, which every change calls, and drains them.
    """

    def __init__(self, name: str, n: int) -> None:
        self.name = name
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
        """Tokens that have come so far."""

    @property
    def complete(self) -> bool:
        """Whether the engine has sent all outputs."""
        return self._num_unfinished == 0

    def put(self, output: CompletionOutput) -> None:
        """Adds a piece, after those that have not been read."""
        self.started = True
        self.num_tokens += len(output.token_ids)
        self._num_unfinished -= output.finished()
        if self._closed:
            return
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

    def drain(self) -> list[CompletionOutput]:
        """Removes and returns everything pending, without waiting."""
        pieces = list(self._pending)
        self._pending.clear()
        self._mergeable.clear()
        return pieces

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
