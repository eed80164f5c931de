"""OutputStream: what one caller still has to read. Belongs to the event loop.

A reader that lags costs no memory beyond its own tokens and delays no one: pieces of the same
continuation that it has not read yet are merged into one.
"""

import asyncio

from folovllm.errors import FolovError
from folovllm.outputs import CompletionOutput


class OutputStream:
    """Iterates over a request's outputs; ends after the last of its n continuations."""

    def __init__(self, n: int) -> None:
        self._num_unfinished = n
        self._pending: dict[int, CompletionOutput] = {}
        self._error: FolovError | None = None
        self._changed = asyncio.Event()
        self._closed = False
        self.started = False
        """Whether anything has come."""

    @property
    def complete(self) -> bool:
        """Whether the engine has sent all that it ever will."""
        return self._num_unfinished == 0

    def put(self, output: CompletionOutput) -> None:
        """Adds a piece, after those that the reader has not read."""
        self.started = True
        self._num_unfinished -= output.finished
        if self._closed:
            return
        if output.index in self._pending:
            self._pending[output.index].append(output)
        else:
            self._pending[output.index] = output
        self._changed.set()

    def fail(self, error: FolovError) -> None:
        """Ends the stream with an error, after what is pending."""
        self._error = error
        self._changed.set()

    def close(self) -> None:
        """Says that no one reads any more; what still comes is dropped."""
        self._closed = True
        self._pending.clear()

    def __aiter__(self) -> "OutputStream":
        return self

    async def __anext__(self) -> CompletionOutput:
        while not self._pending:
            if self._error is not None:
                raise self._error
            if self.complete:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        index = next(iter(self._pending))
        return self._pending.pop(index)
