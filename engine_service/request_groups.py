"""RequestGroups: requests that answer one call together.

The branches of a fork and the continuations of a score are requests of their own to the scheduler.
To the caller they are one: outputs carry the group's name, and a member's place as their index.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from engine_service.core.request import Request


@dataclass(slots=True)
class _Group:
    members: dict[int, str]
    """Names of the members that have not ended, by place."""
    followers: Sequence[Request]
    """Those that wait for the first member's end; the scheduler does not know them yet."""


class RequestGroups:
    """Every group with a member that has not ended. Members have names that no caller knows."""

    def __init__(self) -> None:
        self._groups: dict[str, _Group] = {}
        self._places: dict[str, tuple[str, int]] = {}  # member to group and place

    def __contains__(self, name: str) -> bool:
        return name in self._groups

    def add(
        self, name: str, requests: Sequence[Request], followers: Sequence[Request] = ()
    ) -> None:
        """Makes a group; `followers` are those of its requests that wait for the first one."""
        members = {place: request.request_id for place, request in enumerate(requests)}
        self._groups[name] = _Group(members, followers)
        self._places |= {member: (name, place) for place, member in members.items()}

    def members(self, name: str, places: Iterable[int] = ()) -> list[str]:
        """The unfinished requests of a group, or of the given places of it, by place."""
        chosen = set(places)
        members = self._groups[name].members
        return [member for place, member in members.items() if not chosen or place in chosen]

    def member(self, name: str, index: int) -> tuple[str, int]:
        """The request and the index in it that a caller means by a name and an index."""
        if name not in self._groups:
            return name, index
        return self._groups[name].members.get(index, ""), 0

    def name_of(self, request_id: str, index: int) -> tuple[str, int]:
        """The name and index by which the caller knows a sequence of a request."""
        return self._places.get(request_id, (request_id, index))

    def take_followers(self, name: str) -> Sequence[Request]:
        """The requests of a group that still wait, to wait no longer."""
        group = self._groups[name]
        followers, group.followers = group.followers, ()
        return followers

    def discard(self, request_id: str) -> Sequence[Request]:
        """Forgets a request that has ended; returns those that waited for it."""
        if request_id not in self._places:
            return ()
        name, place = self._places.pop(request_id)
        followers = self.take_followers(name) if place == 0 else ()
        members = self._groups[name].members
        del members[place]
        if not members:
            del self._groups[name]
        return followers
