"""WaitingQueue: the sequences that wait, and how many tokens they still have to compute."""

from engine_service.core.request import SequenceGroup
from engine_service.core.waiting.scheduling_policy import SchedulingPolicy
from engine_service.core.waiting.waiting_sequence import WaitingSequence


class WaitingQueue:
    """Counts what waits; a policy orders it."""

    def __init__(self, policy: SchedulingPolicy) -> None:
        self._policy = policy
        self._waiting: dict[int, tuple[WaitingSequence, int]] = {}
        """By seq_id; beside each its tokens, as counted when it was added."""
        self.num_queued_tokens = 0
        """Tokens that the waiting sequences still have to compute."""

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, seq_id: int) -> bool:
        return seq_id in self._waiting

    def add(self, group: SequenceGroup, index: int) -> None:
        """Queues a sequence of a request, made or not."""
        waiting = WaitingSequence(group, index)
        num_tokens = waiting.num_uncomputed_tokens
        self._waiting[waiting.seq_id] = waiting, num_tokens
        self.num_queued_tokens += num_tokens
        self._policy.add(waiting)

    def first(self) -> WaitingSequence:
        """The one to start next; at least one waits."""
        return self._policy.first()

    def remove(self, seq_id: int) -> None:
        """Removes a sequence from wherever it is in the queue."""
        waiting, num_tokens = self._waiting.pop(seq_id)
        self.num_queued_tokens -= num_tokens
        self._policy.remove(waiting)
