"""WaitingSequence: a place in the queue, which needs no sequence yet."""

from dataclasses import dataclass

from engine_service.core.request import Request, SequenceGroup


@dataclass(frozen=True, slots=True)
class WaitingSequence:
    """A sequence of a request that waits to run, whether it has been made or not."""

    group: SequenceGroup
    index: int

    @property
    def request(self) -> Request:
        """That of the group."""
        return self.group.request

    @property
    def seq_id(self) -> int:
        """The one that the sequence has or will have."""
        return self.group.first_seq_id + self.index

    @property
    def num_uncomputed_tokens(self) -> int:
        """Tokens that it would have to compute if it started now, without the prefix cache."""
        return self.group.num_uncomputed_tokens(self.index)
