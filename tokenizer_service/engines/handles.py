"""Handles: the numbers by which an engine names continuations where it sends many in columns."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from folovllm.errors import ServerError
from folovllm.v1 import engine_service_pb2
from tokenizer_service.engines.part import Part

Row = tuple[Part, int, list[int]]


class Handles:
    """Those of one session. None is used twice, so what comes late for a request that was
    cancelled is never taken for another's."""

    def __init__(self) -> None:
        self._next = 1
        self._continuations: dict[int, tuple[Part, int]] = {}
        self._indexes: dict[Part, Sequence[int]] = {}

    def assign(self, part: Part) -> int:
        """The handle of a part's request: that of index i is this plus i."""
        handle, indexes = self._next, part.indexes
        self._next += 1 + max(indexes)
        self._indexes[part] = indexes
        for index in indexes:
            self._continuations[handle + index] = part, index
        return handle

    def release(self, part: Part) -> None:
        """Passes over what still comes for a part."""
        for index in self._indexes.pop(part):
            del self._continuations[part.handle + index]

    def rows(self, columns: engine_service_pb2.OutputColumns) -> Iterator[Row]:
        """The parts, indexes and new token ids, in order.

        Raises ServerError if the columns do not belong together.
        """
        token_ids = columns.token_ids[:]
        if columns.num_token_ids:
            ends = [0]
            for count in columns.num_token_ids:
                ends.append(ends[-1] + count)
            pieces = [token_ids[start:end] for start, end in pairwise(ends)]
        else:
            ends = [len(token_ids)]
            pieces = [[token_id] for token_id in token_ids]
        if ends[-1] != len(token_ids) or len(pieces) != len(columns.handles):
            raise ServerError("the engine has sent columns of different lengths")
        find = self._continuations.get
        for found, piece in zip(map(find, columns.handles[:]), pieces, strict=True):
            if found is not None:
                yield *found, piece
