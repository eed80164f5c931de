"""SequenceStates: every unfinished request, and which of its sequences run and which wait."""

import time
from collections.abc import Callable

from engine_service.core.kv_cache_manager import KVCacheManager
from engine_service.core.request import Request, RequestStatus, Sequence, SequenceGroup
from engine_service.core.waiting_queue import WaitingQueue


class SequenceStates:
    """Moves sequences from state to state, and allocates and frees their KV as it does."""

    def __init__(self, max_num_seqs: int, kv_cache_manager: KVCacheManager) -> None:
        """Up to `max_num_seqs` sequences run at once."""
        self.groups: dict[str, SequenceGroup] = {}
        """By request_id."""
        self.running: dict[int, Sequence] = {}
        """Those that hold KV blocks, by seq_id."""
        self.started: list[Request] = []
        """Those that run for the first time, since the scheduler has emptied this."""
        self.waiting = WaitingQueue()
        self.clock: Callable[[], float] = time.monotonic
        self._max_num_seqs = max_num_seqs
        self._kv = kv_cache_manager
        self._num_groups_seen = 0
        self._num_seqs_seen = 0

    @property
    def has_capacity(self) -> bool:
        """Whether one more sequence may run."""
        return len(self.running) < self._max_num_seqs

    def register(self, group: SequenceGroup) -> None:
        """Numbers a request and its sequences in the order of arrival."""
        assert group.request.request_id not in self.groups
        group.arrival_order = self._num_groups_seen
        self._num_groups_seen += 1
        for seq in group.get_seqs():
            seq.seq_id = self._num_seqs_seen
            self._num_seqs_seen += 1
        self.groups[group.request.request_id] = group

    def start_next(self) -> Sequence | None:
        """Runs the first waiting sequence, on what the prefix cache has of it.

        None if none waits, or too many run, or the free KV cannot hold all of it; later ones must
        not overtake it.
        """
        if not self.waiting or not self.has_capacity:
            return None
        seq = self.waiting.peek()
        if not self._kv.start(seq, seq.group.max_cached_tokens):
            return None
        self.waiting.remove(seq)
        self._run(seq)
        return seq

    def branch(self, parent: Sequence, child: Sequence) -> None:
        """Runs a sequence with its parent's tokens on its parent's KV, or else queues it."""
        if parent.runner_state is not None:
            child.runner_state = parent.runner_state.fork()
        if parent.seq_id in self.running and self.has_capacity and self._kv.fork(parent, child):
            self._run(child)
        else:
            self.waiting.add(child)

    def preempt_last(self) -> Sequence:
        """Frees the KV of the running sequence that is last in order, and lets it wait."""
        seq = max(self.running.values(), key=lambda running: running.order)
        del self.running[seq.seq_id]
        self._kv.free(seq)
        seq.status = RequestStatus.PREEMPTED
        seq.num_preemptions += 1
        self.waiting.add(seq)
        return seq

    def finish(self, seq: Sequence, status: RequestStatus) -> None:
        """Ends a sequence in any state, and its request with the last one."""
        if self.running.pop(seq.seq_id, None) is not None:
            self._kv.free(seq)
        elif seq in self.waiting:
            self.waiting.remove(seq)
        seq.status = status
        seq.finish_time = self.clock()
        seq.runner_state = None
        if seq.group.finished:
            del self.groups[seq.request.request_id]

    def elect_leader(self, group: SequenceGroup) -> None:
        """Queues another sequence if the one that was to compute the prompt was aborted."""
        unfinished = group.get_unfinished_seqs()
        if group.forked or not unfinished:
            return
        leader = unfinished[0]
        if leader.seq_id not in self.running and leader not in self.waiting:
            self.waiting.add(leader)

    def _run(self, seq: Sequence) -> None:
        self.running[seq.seq_id] = seq
        seq.status = RequestStatus.RUNNING
        if seq.group.first_scheduled_time is None:
            seq.group.first_scheduled_time = self.clock()
            seq.group.num_cached_tokens = seq.num_computed_tokens
            self.started.append(seq.request)
