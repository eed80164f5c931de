"""SchedulingPolicy: who starts next and who is preempted; by default by priority, then arrival."""

from bisect import bisect_left, insort
from collections.abc import Iterable
from typing import Protocol

from engine_service.core.request import Sequence, SequenceGroup
from engine_service.core.waiting.waiting_sequence import WaitingSequence

Key = tuple[int, float, int, int]


class SchedulingPolicy(Protocol):
    """One order of all sequences, for starting and for preempting.

    The first of them starts next, and the last that runs is preempted. Since both follow one order,
    the first always advances. Every rank of an engine has to come to the same order, so it may
    depend on what commands say, on how often it was asked and on nothing else: not on a clock.
    """

    def add(self, waiting: WaitingSequence) -> None:
        """Takes in a sequence that waits: a new one, or one that was preempted."""
        ...

    def remove(self, waiting: WaitingSequence) -> None:
        """Forgets one that was added: it starts, or has ended."""
        ...

    def first(self) -> WaitingSequence:
        """Of those that wait, of which there is at least one, the one to start next."""
        ...

    def last(self, running: Iterable[Sequence]) -> Sequence:
        """Of at least one sequence that runs, the one to preempt."""
        ...


class PriorityThenArrival:
    """The lowest priority value first, then the earliest `arrival_time`, then as they were added.

    The arrival time is the caller's to say: a request that was refused and has come again keeps its
    place before those that came later if it is given the time at which it first came. A handicap
    puts it behind some of them.
    """

    def __init__(self) -> None:
        self._waiting: list[WaitingSequence] = []

    def add(self, waiting: WaitingSequence) -> None:
        """See SchedulingPolicy."""
        insort(self._waiting, waiting, key=_key)

    def remove(self, waiting: WaitingSequence) -> None:
        """See SchedulingPolicy."""
        del self._waiting[bisect_left(self._waiting, _key(waiting), key=_key)]

    def first(self) -> WaitingSequence:
        """See SchedulingPolicy."""
        return self._waiting[0]

    def last(self, running: Iterable[Sequence]) -> Sequence:
        """See SchedulingPolicy."""
        return max(running, key=_key)


def _key(of: WaitingSequence | Sequence) -> Key:
    group: SequenceGroup = of.group
    request = group.request
    place = request.arrival_time + request.handicap
    return request.priority, place, group.arrival_order, of.index
