"""Scheduler: which tokens the next step computes.

There is no prefill phase and no decode phase. Each sequence's num_computed_tokens catches up with
its tokens under one token budget; chunked prefill, prefix caching and recomputing after a
preemption are all that one rule. (The idea is vLLM's.)

Order is a policy's, by default by priority, then arrival (`core.waiting`). Sequences that decode go
first, so that a long prompt delays them by one bounded step and never starves them. When the pool
runs out, the last in order frees its blocks and waits to be recomputed; the first in order
therefore always advances.

A step may be planned while the one before is in flight, see `core.async_scheduling`. Blocks are
freed all the same when a sequence ends, though a step in flight may still compute a token of it:
steps take effect in the order of their launch, so the next owner of a block writes to it after
that; and nothing else in the step in flight touches what is written then, since a block that is not
full belongs to one sequence alone, and a full one is not written to.
"""

import time
from collections.abc import Callable, Iterable
from itertools import takewhile

from engine_service.core.async_scheduling import schedule_running_ahead
from engine_service.core.kv_cache_manager import KVCacheManager
from engine_service.core.outputs import ModelRunnerOutput, SchedulerOutput, SequenceOutput
from engine_service.core.request import Request, RequestStatus, Sequence
from engine_service.core.scheduler_limits import SchedulerLimits
from engine_service.core.scheduler_output_builder import SchedulerOutputBuilder
from engine_service.core.sequence_states import SequenceStates
from engine_service.core.spec_decode.speculator import Speculator
from engine_service.core.step_results import StepResults
from engine_service.core.token_matcher import TokenMatcher
from engine_service.core.waiting.scheduling_policy import PriorityThenArrival, SchedulingPolicy


class Scheduler:
    """Owns every unfinished request. Single-threaded; the engine's thread calls it."""

    def __init__(
        self,
        limits: SchedulerLimits,
        kv_cache_manager: KVCacheManager,
        speculator: Speculator | None = None,
        policy: SchedulingPolicy | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Without a speculator each step adds at most one token to a sequence.

        The default policy is PriorityThenArrival. `clock` is in seconds.
        """
        self._limits = limits
        self._kv = kv_cache_manager
        self._speculator = speculator
        policy = policy or PriorityThenArrival()
        self._states = SequenceStates(limits.max_num_seqs, kv_cache_manager, policy, clock)
        self._results = StepResults(limits, kv_cache_manager, self._states, speculator)

    @property
    def num_running(self) -> int:
        """Sequences that hold KV blocks."""
        return len(self._states.running)

    @property
    def num_waiting(self) -> int:
        """Sequences that wait to run."""
        return len(self._states.waiting)

    @property
    def num_queued_tokens(self) -> int:
        """Tokens that the waiting sequences still have to compute."""
        return self._states.waiting.num_queued_tokens

    def has_unfinished_requests(self) -> bool:
        """Whether another step has anything to do."""
        return bool(self._states.groups)

    def add_request(
        self, request: Request, *matchers: TokenMatcher | None, may_wait: bool = False
    ) -> None:
        """Queues a request that the engine has admitted; its id is not in use.

        The first of `matchers` is at the start of the grammar that its outputs must follow; a
        continued request has one for each of its outputs. One that `may_wait` is never overdue.
        Costs the same for every prompt and every n.
        """
        group = self._states.register(request, matchers, may_wait)
        self._states.waiting.add(group, group.first_index)

    def find_unfinished(self, request_id: str, index: int) -> Sequence | None:
        """A sequence that has not ended, if there is one of this index."""
        group = self._states.groups.get(request_id)
        if group is None or index not in group.unfinished_indexes():
            return None
        return group.seq(index)

    def fork_request(
        self, parent: Sequence, branch: Request, matcher: TokenMatcher | None = None
    ) -> None:
        """Adds one of `parent.branch_requests`.

        It runs at once on its parent's KV, before all that wait, since that KV may be gone later.
        If the parent has none now, or there is no capacity or block, it queues as any request.
        """
        group = self._states.register(branch, (matcher,), may_wait=False)
        self._states.branch(parent, group, 0)

    def overdue_requests(self, max_seconds: float, now: float) -> list[Request]:
        """Those of which nothing has run and that were added over `max_seconds` before `now`.

        `now` is by the scheduler's clock. Costs no more than the answer is long.
        """
        added = self._states.queued_since.items()
        overdue = takewhile(lambda each: now - each[1] > max_seconds, added)
        return [self._states.groups[request_id].request for request_id, _ in overdue]

    def let_wait(self, request_id: str) -> None:
        """Lets a request wait for as long as it takes: it is never overdue."""
        self._states.queued_since.pop(request_id, None)

    def abort_request(self, request_id: str, indexes: Iterable[int] = ()) -> list[SequenceOutput]:
        """Ends a request, or the named sequences of it, and frees their blocks at once.

        Sequences that have ended or never existed are ignored.
        """
        group = self._states.groups.get(request_id)
        if group is None:
            return []
        chosen = set(indexes)
        aborted = [seq for seq in group.unfinished_seqs() if not chosen or seq.index in chosen]
        for seq in aborted:
            self._results.finish(seq, RequestStatus.FINISHED_ABORTED)
        self._states.elect_leader(group)
        return [SequenceOutput(seq, finished=True) for seq in aborted]

    def schedule(self) -> SchedulerOutput:
        """Plans one step. None may be in flight."""
        builder = self._builder()
        preempted = self._schedule_running(builder)
        if not preempted:
            self._schedule_waiting(builder)
        if self._speculator is not None:
            self._speculator.add_drafts(builder)
        return self._built(builder)

    def schedule_ahead(self, in_flight: SchedulerOutput) -> SchedulerOutput | None:
        """Plans the step after the one in flight; None if that should be read first.

        Preempts nothing, and drafts nothing: with a speculator it always returns None.
        """
        if self._speculator is not None:
            return None
        builder = self._builder()
        running = self._states.running.values()
        try:
            if not schedule_running_ahead(builder, running, in_flight, self._kv, self._limits):
                return None
        except Exception:  # `schedule` finds out whose it is
            return None
        self._schedule_waiting(builder)
        return self._built(builder) if builder.num_tokens else None

    def update_from_output(
        self, output: SchedulerOutput, runner_output: ModelRunnerOutput
    ) -> list[SequenceOutput]:
        """Applies what a step computed; returns what changed, in the order of the step.

        Steps come in the order of their launch. What was computed of a sequence that has ended
        since is dropped. `drain_failures` has the requests that failed.
        """
        return self._results.apply(output, runner_output)

    def drain_started(self) -> list[Request]:
        """The requests that have been scheduled for the first time since the last call."""
        started, self._states.started = self._states.started, []
        return started

    def drain_failures(self) -> list[tuple[Request, Exception]]:
        """The requests that have failed since the last call, and why. They have ended."""
        return self._results.drain_failures()

    def _builder(self) -> SchedulerOutputBuilder:
        limits = self._limits
        return SchedulerOutputBuilder(limits.max_num_batched_tokens, limits.eos_token_ids)

    def _built(self, builder: SchedulerOutputBuilder) -> SchedulerOutput:
        return SchedulerOutput(
            builder.scheduled(), self._kv.drain_block_copies(), builder.num_tokens
        )

    def _schedule_running(self, builder: SchedulerOutputBuilder) -> bool:
        """Adds the running sequences; True if the pool ran out and one was preempted."""
        preempted = False
        for seq in sorted(self._states.running.values(), key=_prefills):
            num_new_tokens = min(seq.num_uncomputed_tokens, builder.token_budget)
            if seq.status is not RequestStatus.RUNNING or num_new_tokens == 0:
                continue
            while not self._kv.allocate_slots(seq, num_new_tokens):
                victim = self._states.preempt_last()
                preempted = True
                builder.remove(victim)
                if victim is seq:
                    break
            else:
                try:
                    builder.add(seq, num_new_tokens)
                except Exception as error:
                    self._give_up(builder, seq, error)
        return preempted

    def _schedule_waiting(self, builder: SchedulerOutputBuilder) -> None:
        """Starts waiting sequences in order, as far as budget, capacity and blocks allow."""
        while builder.token_budget and (seq := self._states.start_next()) is not None:
            num_new_tokens = min(seq.num_uncomputed_tokens, builder.token_budget)
            allocated = self._kv.allocate_slots(seq, num_new_tokens)
            assert allocated, "a sequence starts only if there is room for all of it"
            try:
                builder.add(seq, num_new_tokens)
            except Exception as error:
                self._give_up(builder, seq, error)

    def _give_up(self, builder: SchedulerOutputBuilder, seq: Sequence, error: Exception) -> None:
        """Ends the request of a sequence that cannot be added to a step."""
        for each in seq.group.made_seqs():
            builder.remove(each)
        self._results.fail(seq.group, error)


def _prefills(seq: Sequence) -> bool:
    return seq.num_uncomputed_tokens > 1
