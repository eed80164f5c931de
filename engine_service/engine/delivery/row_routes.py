"""RowRoutes: which rows of a step go to a sink at once, past the stream of their request."""

from collections.abc import Sequence
from typing import Protocol

from engine_service.engine.delivery.step_outputs import Address

TokenIds = Sequence[int]


class RowSink(Protocol):
    """What takes the rows of many requests, such as a session."""

    def put_rows(self, handles: list[int], token_ids: list[TokenIds]) -> None:
        """Takes the new token ids of continuations, each of which is there once.

        Both lists are the sink's from now on.
        """


class RowRoutes:
    """The sinks of continuations, and the handles by which they know them.

    A continuation has a route while nothing else of it waits in its stream, since a row must not
    overtake that.
    """

    def __init__(self) -> None:
        self._routes: dict[Address, tuple[RowSink, int]] = {}

    def set(self, address: Address, sink: RowSink, handle: int) -> None:
        """The rows of a continuation go to a sink from now on."""
        self._routes[address] = sink, handle

    def remove(self, address: Address) -> None:
        """They go to its stream from now on, if they do not yet."""
        self._routes.pop(address, None)

    def send(
        self, addresses: Sequence[Address], token_ids: Sequence[TokenIds]
    ) -> list[tuple[Address, TokenIds]]:
        """Hands the rows of a step to their sinks; returns those that have none."""
        rest: list[tuple[Address, TokenIds]] = []
        batches: dict[RowSink, tuple[list[int], list[TokenIds]]] = {}
        find, last = self._routes.get, None
        handles, ids_of_each = list[int](), list[TokenIds]()
        for address, ids in zip(addresses, token_ids, strict=True):
            route = find(address)
            if route is None:
                rest.append((address, ids))
                continue
            sink, handle = route
            if sink is not last:
                handles, ids_of_each = batches.setdefault(sink, ([], []))
                last = sink
            handles.append(handle)
            ids_of_each.append(ids)
        for sink, batch in batches.items():
            sink.put_rows(*batch)
        return rest
