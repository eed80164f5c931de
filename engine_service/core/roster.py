"""Roster: every unfinished request, and which of its sequences run and which wait."""

import time
from collections.abc import Callable

from engine_service.core.kv_cache_manager import KVCacheManager
from engine_service.core.request import Request, RequestStatus, Sequence
from engine_service.core.waiting_queue import WaitingQueue


class Roster:
    """Moves sequences from state to state, and gives and frees what comes with it."""

    def __init__(
        self,
        max_num_seqs: int,
        kv_cache_manager: KVCacheManager,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """At most `max_num_seqs` sequences run at once."""
        self.requests: dict[str, Request] = {}
        self.running: dict[int, Sequence] = {}
        """Those that hold KV blocks, by seq_id."""
        self.waiting = WaitingQueue()
        self.clock = clock
        self._max_num_seqs = max_num_seqs
        self._kv = kv_cache_manager
        self._num_arrivals = 0
        self._num_seqs_seen = 0

    @property
    def has_place(self) -> bool:
        """Whether one more sequence may run."""
        return len(self.running) < self._max_num_seqs

    def register(self, request: Request) -> None:
        """Gives a request and its sequences their place in the order of arrival."""
        assert request.request_id not in self.requests
        request.arrival_order = self._num_arrivals
        self._num_arrivals += 1
        for seq in request.get_seqs():
            seq.seq_id = self._num_seqs_seen
            self._num_seqs_seen += 1
        self.requests[request.request_id] = request

    def start_next(self) -> Sequence | None:
        """Runs the sequence whose turn it is, on what the prefix cache has of it.

        None where there is none, or no place or KV for all of it; later ones must not overtake it.
        """
        if not self.waiting or not self.has_place:
            return None
        seq = self.waiting.peek()
        if not self._kv.start(seq, seq.request.most_cached_tokens):
            return None
        self.waiting.remove(seq)
        self._run(seq)
        return seq

    def branch(self, parent: Sequence, child: Sequence) -> None:
        """Lets a sequence with its parent's tokens run on its parent's KV, or else queue."""
        if parent.seq_id in self.running and self.has_place and self._kv.fork(parent, child):
            self._run(child)
        else:
            self.waiting.add(child)

    def preempt_last(self) -> Sequence:
        """Takes its KV from the running sequence that is the last in order, and lets it wait."""
        seq = max(self.running.values(), key=lambda running: running.order)
        del self.running[seq.seq_id]
        self._kv.free(seq)
        seq.status = RequestStatus.PREEMPTED
        seq.num_preemptions += 1
        self.waiting.add(seq)
        return seq

    def finish(self, seq: Sequence, status: RequestStatus) -> None:
        """Ends a sequence in whatever state it is, and its request with the last one."""
        if self.running.pop(seq.seq_id, None) is not None:
            self._kv.free(seq)
        elif seq in self.waiting:
            self.waiting.remove(seq)
        seq.status = status
        seq.finish_time = self.clock()
        if seq.request.finished:
            del self.requests[seq.request.request_id]

    def elect_leader(self, request: Request) -> None:
        """Where the one that computed the prompt was aborted, lets the next one do it."""
        unfinished = request.get_unfinished_seqs()
        if request.forked or not unfinished:
            return
        leader = unfinished[0]
        if leader.seq_id not in self.running and leader not in self.waiting:
            self.waiting.add(leader)

    def _run(self, seq: Sequence) -> None:
        self.running[seq.seq_id] = seq
        seq.status = RequestStatus.RUNNING
        request = seq.request
        if request.first_scheduled_time is None:
            request.first_scheduled_time = self.clock()
            request.num_cached_tokens = seq.num_computed_tokens
