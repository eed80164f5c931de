"""OutputStream: what one caller still has to read. Belongs to the event loop.

A reader that lags costs no memory beyond its own tokens and delays no one: pieces of the same
continuation that it has not read yet are merged into one.
"""

import asyncio
from collections.abc import Callable

from folovllm.errors import FolovError
from folovllm.outputs import CompletionOutput


class OutputStream:
    """Iterates over a request's outputs; ends after the last of its n continuations.

    Who reads many streams sets `notify` to what is called at each change, and takes what has come.
    """

    def __init__(self, name: str, n: int) -> None:
        self.name = name
        self._num_unfinished = n
        self._pending: dict[int, CompletionOutput] = {}
        self._changed = asyncio.Event()
        self.notify: Callable[[], None] = self._changed.set
        self.error: FolovError | None = None
        """What ended the stream, after all that is pending."""
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
        self.notify()

    def fail(self, error: FolovError) -> None:
        """Ends the stream with an error, after what is pending."""
        self.error = error
        if not self._closed:
            self.notify()

    def close(self) -> None:
        """Says that no one reads any more; what still comes is dropped."""
        self._closed = True
        self._pending.clear()

    def take(self) -> list[CompletionOutput]:
        """All that is pending, one piece for each continuation that has any; waits for nothing."""
        pieces = list(self._pending.values())
        self._pending.clear()
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
        index = next(iter(self._pending))
        return self._pending.pop(index)
