"""EngineRun: a request while it runs at an engine, and its move to another where one fails.

with engines.generate(request) as run:
    async for piece in run:       # types_pb2.CompletionOutput
        run.abort([piece.index])  # where a stop string has ended that continuation
"""

from collections.abc import Callable, Sequence
from types import TracebackType

from folovllm.errors import QueueFullError, UnavailableError
from folovllm.v1 import types_pb2
from tokenizer_service.engines.stream import EngineStream


class EngineRun:
    """Iterates over a request's pieces, to the final one of its last continuation.

    Raises FolovError. Leaving its context cancels at the engine what still runs.
    """

    def __init__(
        self, stream: EngineStream, run_elsewhere: Callable[[], EngineStream | None]
    ) -> None:
        """`run_elsewhere` begins the request at another engine, or returns None where none is.

        It is called at most once, and only where no piece has come before the engine failed,
        drained or had no room for the request.
        """
        self._stream = stream
        self._run_elsewhere: Callable[[], EngineStream | None] | None = run_elsewhere

    def abort(self, indexes: Sequence[int]) -> None:
        """Ends continuations; they still get their final pieces, as ABORT."""
        self._stream.abort(indexes)

    def __enter__(self) -> "EngineRun":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stream.close()

    def __aiter__(self) -> "EngineRun":
        return self

    async def __anext__(self) -> types_pb2.CompletionOutput:
        """The next piece."""
        try:
            piece = await anext(self._stream)
        except (UnavailableError, QueueFullError):
            if not self._move():
                raise
            piece = await anext(self._stream)
        self._run_elsewhere = None
        return piece

    def _move(self) -> bool:
        """Begins it elsewhere, where that may be done; says whether it has."""
        run_elsewhere, self._run_elsewhere = self._run_elsewhere, None
        stream = None if run_elsewhere is None else run_elsewhere()
        if stream is None:
            return False
        self._stream = stream
        return True
