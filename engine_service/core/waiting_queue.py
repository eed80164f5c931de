"""WaitingQueue: the sequences that wait, lowest order first."""

from bisect import bisect_left, insort

from engine_service.core.request import Sequence


class WaitingQueue:
    """Sorted by `Sequence.order`, which never changes."""

    def __init__(self) -> None:
        self._seqs: list[Sequence] = []
        self._num_tokens: dict[int, int] = {}  # by seq_id, as they were when it came
        self.num_queued_tokens = 0
        """Tokens that the waiting sequences still have to compute."""

    def __len__(self) -> int:
        return len(self._seqs)

    def __contains__(self, seq: Sequence) -> bool:
        return seq.seq_id in self._num_tokens

    def add(self, seq: Sequence) -> None:
        """Puts a sequence in its place."""
        insort(self._seqs, seq, key=_order)
        self._num_tokens[seq.seq_id] = seq.num_uncomputed_tokens
        self.num_queued_tokens += seq.num_uncomputed_tokens

    def peek(self) -> Sequence:
        """The sequence whose turn it is."""
        return self._seqs[0]

    def remove(self, seq: Sequence) -> None:
        """Takes a sequence out, wherever it stands."""
        del self._seqs[bisect_left(self._seqs, seq.order, key=_order)]
        self.num_queued_tokens -= self._num_tokens.pop(seq.seq_id)


def _order(seq: Sequence) -> tuple[int, int, int]:
    return seq.order
