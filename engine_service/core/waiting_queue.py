"""WaitingQueue: the sequences that wait, lowest order first."""

from bisect import bisect_left, insort

from engine_service.core.request import Sequence


class WaitingQueue:
    """Sorted by `Sequence.order`, which never changes."""

    def __init__(self) -> None:
        self._seqs: list[Sequence] = []
        self._num_tokens: dict[int, int] = {}  # by seq_id, as counted when added
        self.num_queued_tokens = 0
        """Tokens that the waiting sequences still have to compute."""

    def __len__(self) -> int:
        return len(self._seqs)

    def __contains__(self, seq: Sequence) -> bool:
        return seq.seq_id in self._num_tokens

    def add(self, seq: Sequence) -> None:
        """Inserts a sequence by its order."""
        insort(self._seqs, seq, key=_order)
        self._num_tokens[seq.seq_id] = seq.num_uncomputed_tokens
        self.num_queued_tokens += seq.num_uncomputed_tokens

    def peek(self) -> Sequence:
        """The first sequence."""
        return self._seqs[0]

    def remove(self, seq: Sequence) -> None:
        """Removes a sequence from wherever it is in the queue."""
        del self._seqs[bisect_left(self._seqs, seq.order, key=_order)]
        self.num_queued_tokens -= self._num_tokens.pop(seq.seq_id)


def _order(seq: Sequence) -> tuple[int, int, int]:
    return seq.order
