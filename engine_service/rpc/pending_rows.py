"""PendingRows: new token ids of many continuations that wait for a session's next message.

As a rule those are the rows of one step, which stay the columns that they came in. Where the front
end lags, more steps come; then the ids of each continuation are joined, so that what waits needs no
memory beyond the ids themselves.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from folovllm.v1 import engine_service_pb2

# Ids in the columns of one message, which take a fraction of a millisecond to make.
_MAX_IDS = 4096
# Bytes of a message that a row and an id take, at most as a rule.
_ROW_BYTES = 6
_ID_BYTES = 4

TokenIds = Sequence[int]


class PendingRows:
    """Each handle once, in the order in which they came."""

    def __init__(self) -> None:
        self._handles: list[int] = []  # of the first step
        self._token_ids: list[TokenIds] = []  # of each
        self._joined: dict[int, list[int]] = {}  # instead, once there was another

    def __bool__(self) -> bool:
        return bool(self._handles or self._joined)

    def add(self, handles: list[int], token_ids: list[TokenIds]) -> None:
        """Adds the rows of a step, which has each handle at most once."""
        if not self:
            self._handles, self._token_ids = handles, token_ids
            return
        joined = self._join()
        for handle, ids in zip(handles, token_ids, strict=True):
            joined.setdefault(handle, []).extend(ids)

    def pop(self, handles: Iterable[int]) -> Iterator[tuple[int, list[int]]]:
        """Removes the rows of some handles, and yields what there is, in parts if long."""
        if not self:
            return
        joined = self._join()
        for handle in handles:
            ids = joined.pop(handle, [])
            for start in range(0, len(ids), _MAX_IDS):
                yield handle, ids[start : start + _MAX_IDS]

    def move_to(self, message: engine_service_pb2.SessionEvents) -> int:
        """Removes the rows that came first, as many as fit into the columns of a message.

        Returns about how many bytes they take.
        """
        handles, token_ids = self._take()
        if not handles:
            return 0
        columns, flat = message.columns, [*chain.from_iterable(token_ids)]
        columns.handles.extend(handles)
        columns.token_ids.extend(flat)
        if len(flat) != len(handles):
            columns.num_token_ids.extend(map(len, token_ids))
        return _ROW_BYTES * len(handles) + _ID_BYTES * len(flat)

    def _join(self) -> dict[int, list[int]]:
        """All rows by their handles."""
        if self._handles:
            self._joined = dict(zip(self._handles, map(list, self._token_ids), strict=True))
            self._handles, self._token_ids = [], []
        return self._joined

    def _take(self) -> tuple[list[int], list[TokenIds]]:
        """At least one row, if there is any; one that is too long for a message in part."""
        if self._handles and sum(map(len, self._token_ids)) <= _MAX_IDS:
            handles, token_ids = self._handles, self._token_ids
            self._handles, self._token_ids = [], []
            return handles, token_ids
        joined, handles, token_ids, room = self._join(), [], [], _MAX_IDS
        while joined and room:
            handle = next(iter(joined))
            ids = joined[handle]
            handles.append(handle)
            token_ids.append(ids[:room])
            if len(ids) > room:
                del ids[:room]
            else:
                del joined[handle]
            room -= len(token_ids[-1])
        return handles, token_ids
