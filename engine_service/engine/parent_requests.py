"""ParentRequests: requests that answer one call together.

The branches of a fork and the continuations of a score are requests of their own to the scheduler.
To the caller they are one parent request: outputs carry the parent's name, and the index of a child
among its children as their index.
"""

from collections.abc import Iterable, Sequence

from engine_service.core.request import Request


class ParentRequests:
    """Every parent with a child that has not ended. Callers do not know the children's ids."""

    def __init__(self) -> None:
        self._children: dict[str, dict[int, str]] = {}  # parent to unfinished children, by index
        self._followers: dict[str, Sequence[Request]] = {}  # parent to those that wait
        self._names: dict[str, tuple[str, int]] = {}  # child to parent and index
        self._begun: set[str] = set()  # parents with a child that has run

    def __contains__(self, name: str) -> bool:
        return name in self._children

    def add(
        self, name: str, requests: Sequence[Request], followers: Sequence[Request] = ()
    ) -> None:
        """Makes a parent; `followers` are those of its requests that wait for the first one."""
        children = {index: request.request_id for index, request in enumerate(requests)}
        self._children[name], self._followers[name] = children, followers
        self._names |= {child: (name, index) for index, child in children.items()}

    def add_branch(self, request: Request, index: int) -> None:
        """Makes a request its own parent, of whose children it is the only one that is left."""
        self._children[request.request_id] = {index: request.request_id}
        self._names[request.request_id] = request.request_id, index

    def children(self, name: str, indexes: Iterable[int] = ()) -> list[str]:
        """The unfinished children of a parent, or those of the given indexes, by index."""
        chosen = set(indexes)
        children = self._children[name]
        return [child for index, child in children.items() if not chosen or index in chosen]

    def child(self, name: str, index: int) -> tuple[str, int]:
        """The request and the index in it that a caller means by a name and an index."""
        if name not in self._children:
            return name, index
        return self._children[name].get(index, ""), 0

    def name_of(self, request_id: str, index: int) -> tuple[str, int]:
        """The name and index by which the caller knows a sequence of a request."""
        return self._names.get(request_id, (request_id, index))

    def begin(self, name: str) -> Iterable[str]:
        """Notes that a child of a parent runs; returns its unfinished children the first time."""
        if name in self._begun or name not in self._children:
            return ()
        self._begun.add(name)
        return self._children[name].values()

    def pop_followers(self, name: str) -> Sequence[Request]:
        """The children of a parent that still wait, which now wait no longer."""
        return self._followers.pop(name, ())

    def discard(self, request_id: str) -> Sequence[Request]:
        """Forgets a request that has ended; returns those that waited for it."""
        if request_id not in self._names:
            return ()
        name, index = self._names.pop(request_id)
        followers = self.pop_followers(name) if index == 0 else ()
        del self._children[name][index]
        if not self._children[name]:
            del self._children[name]
            self._begun.discard(name)
        return followers
