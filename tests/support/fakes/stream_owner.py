"""StreamOwner: what an EngineStream asks of its session, recorded."""

from collections.abc import Sequence

from tokenizer_service.engines.stream import EngineStream


class StreamOwner:
    """`aborted` has the indexes to abort, `cancelled` the names of streams that were left."""

    def __init__(self) -> None:
        self.aborted: list[int] = []
        self.cancelled: list[str] = []

    def abort(self, stream: EngineStream, indexes: Sequence[int]) -> None:
        self.aborted += indexes

    def cancel(self, stream: EngineStream) -> None:
        self.cancelled.append(stream.name)
