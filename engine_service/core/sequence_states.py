"""SequenceStates: every unfinished request, and which of its sequences run and which wait."""

from collections.abc import Callable
from collections.abc import Sequence as SequenceOf

from engine_service.core.kv_cache_manager import KVCacheManager
from engine_service.core.request import Request, RequestStatus, Sequence, SequenceGroup
from engine_service.core.token_matcher import TokenMatcher
from engine_service.core.waiting.scheduling_policy import SchedulingPolicy
from engine_service.core.waiting.waiting_queue import WaitingQueue


class SequenceStates:
    """Moves sequences from state to state, and allocates and frees their KV as it does."""

    def __init__(
        self,
        max_num_seqs: int,
        kv_cache_manager: KVCacheManager,
        policy: SchedulingPolicy,
        clock: Callable[[], float],
    ) -> None:
        """Up to `max_num_seqs` sequences run at once; `policy` orders them. `clock` is in s."""
        self.groups: dict[str, SequenceGroup] = {}
        """By request_id."""
        self.running: dict[int, Sequence] = {}
        """Those that hold KV blocks, by seq_id."""
        self.started: list[Request] = []
        """Those that run for the first time, since the scheduler has emptied this."""
        self.queued_since: dict[str, float] = {}
        """By request_id, the earliest first: when it was added, of those that have not started and
        must not wait too long."""
        self.waiting = WaitingQueue(policy)
        self.clock = clock
        self._policy = policy
        self._max_num_seqs = max_num_seqs
        self._kv = kv_cache_manager
        self._num_groups_seen = 0
        self._num_seqs_seen = 0

    @property
    def has_capacity(self) -> bool:
        """Whether one more sequence may run."""
        return len(self.running) < self._max_num_seqs

    def register(
        self, request: Request, matchers: SequenceOf[TokenMatcher | None], may_wait: bool
    ) -> SequenceGroup:
        """Numbers a request and its sequences in the order of arrival; makes none of them.

        `matchers` are the group's. `may_wait` says that it may wait for as long as it takes.
        """
        request_id = request.request_id
        assert request_id not in self.groups
        group = SequenceGroup(request, matchers, self._num_groups_seen, self._num_seqs_seen)
        self._num_groups_seen += 1
        self._num_seqs_seen += request.sampling_params.n
        self.groups[request_id] = group
        if not may_wait:
            self.queued_since[request_id] = self.clock()
        return group

    def start_next(self) -> Sequence | None:
        """Runs the first waiting sequence, on what the prefix cache has of it.

        None if none waits, or too many run, or the free KV cannot hold all of it, or it is on trial
        and another one is too; later ones must not overtake it.
        """
        if not self.waiting or not self.has_capacity:
            return None
        first = self.waiting.first()
        if first.group.on_trial and self._tries_another(first.group):
            return None
        seq = first.group.seq(first.index)
        if not self._kv.start(seq, seq.group.max_cached_tokens):
            return None
        self.waiting.remove(seq.seq_id)
        self._run(seq)
        return seq

    def branch(self, parent: Sequence, group: SequenceGroup, index: int) -> None:
        """Runs a sequence that begins as its parent on the KV of that, or else queues it."""
        if parent.seq_id in self.running and self.has_capacity:
            child = group.seq(index)
            if self._kv.fork(parent, child, group.num_shared_tokens(parent, child)):
                if parent.runner_state is not None and group.request.continued is None:
                    child.runner_state = parent.runner_state.fork()
                self._run(child)
                return
        self.waiting.add(group, index)

    def preempt_last(self) -> Sequence:
        """Frees the KV of the running sequence that is last in order, and lets it wait."""
        seq = self._policy.last(self.running.values())
        del self.running[seq.seq_id]
        self._kv.free(seq)
        seq.status = RequestStatus.PREEMPTED
        seq.num_preemptions += 1
        self.waiting.add(seq.group, seq.index)
        return seq

    def finish(self, seq: Sequence, status: RequestStatus) -> None:
        """Ends a sequence in any state, and its request with the last one."""
        if self.running.pop(seq.seq_id, None) is not None:
            self._kv.free(seq)
        elif seq.seq_id in self.waiting:
            self.waiting.remove(seq.seq_id)
        seq.status = status
        seq.finish_time = self.clock()
        seq.runner_state = None
        group = seq.group
        group.end(seq.index)
        if group.finished:
            del self.groups[seq.request.request_id]
            self.queued_since.pop(seq.request.request_id, None)

    def elect_leader(self, group: SequenceGroup) -> None:
        """Queues another sequence if the one that was to compute the prompt was aborted."""
        if group.forked or group.finished:
            return
        index = group.unfinished_indexes()[0]
        seq_id = group.first_seq_id + index
        if seq_id not in self.running and seq_id not in self.waiting:
            self.waiting.add(group, index)

    def _tries_another(self, group: SequenceGroup) -> bool:
        """Whether a request that runs is on trial: it leads to a token, or ends, in time."""
        groups = (seq.group for seq in self.running.values())
        return any(other.on_trial and other is not group for other in groups)

    def _run(self, seq: Sequence) -> None:
        self.running[seq.seq_id] = seq
        seq.status = RequestStatus.RUNNING
        if seq.group.first_scheduled_time is None:
            seq.group.first_scheduled_time = self.clock()
            seq.group.num_cached_tokens = min(seq.num_computed_tokens, seq.num_prompt_tokens)
            self.started.append(seq.request)
            self.queued_since.pop(seq.request.request_id, None)
