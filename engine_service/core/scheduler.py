"""Scheduler: which tokens the next step computes.

There is no prefill phase and no decode phase. Each sequence's num_computed_tokens catches up with
its tokens under one token budget; chunked prefill, prefix caching and recomputing after a
preemption are all that one rule. (The idea is vLLM's.)

Order is by priority, then arrival. Sequences that decode go first, so that a long prompt delays
them by one bounded step and never starves them. When the pool runs out, the last in order gives its
blocks back and waits to be recomputed; the first in order therefore always advances.

A step may be planned while the one before is in flight, see `core.async_scheduling`. Blocks are
freed all the same when a sequence ends, though a step in flight may still compute a token of it:
steps take effect in the order of their launch, so who gets a block writes to it after that; and no
one else in the step in flight touches what is written then, since a block that is not full belongs
to one sequence alone, and a full one is not written to.
"""

import time
from collections.abc import Callable, Iterable
from collections.abc import Sequence as SequenceOf
from typing import TYPE_CHECKING

from engine_service.core.async_scheduling import plan_ahead
from engine_service.core.continuation import append_token
from engine_service.core.kv_cache_manager import KVCacheManager
from engine_service.core.outputs import (
    ModelRunnerOutput,
    ScheduledSequence,
    SchedulerOutput,
    SequenceOutput,
)
from engine_service.core.request import Request, RequestStatus, Sequence
from engine_service.core.roster import Roster
from engine_service.core.scheduler_limits import SchedulerLimits
from engine_service.core.spec_decode.speculator import Speculator
from engine_service.core.step_plan import StepPlan

if TYPE_CHECKING:
    from folovllm.outputs import PositionLogprobs


class Scheduler:
    """Owns every unfinished request. Single-threaded; the engine's thread calls it."""

    def __init__(
        self,
        limits: SchedulerLimits,
        kv_cache_manager: KVCacheManager,
        speculator: Speculator | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Without a speculator each step brings a sequence one token at most."""
        self._limits = limits
        self._kv = kv_cache_manager
        self._speculator = speculator
        self._roster = Roster(limits.max_num_seqs, kv_cache_manager, clock)

    @property
    def num_running(self) -> int:
        """Sequences that hold KV blocks."""
        return len(self._roster.running)

    @property
    def num_waiting(self) -> int:
        """Sequences that wait for a place."""
        return len(self._roster.waiting)

    @property
    def num_queued_tokens(self) -> int:
        """Tokens that the waiting sequences still have to compute."""
        return self._roster.waiting.num_queued_tokens

    def has_unfinished_requests(self) -> bool:
        """Whether another step has anything to do."""
        return bool(self._roster.requests)

    def add_request(self, request: Request) -> None:
        """Takes a request that the engine has admitted; its id is not in use."""
        self._roster.register(request)
        self._roster.waiting.add(request.get_seqs()[0])

    def find_running(self, request_id: str, index: int) -> Sequence | None:
        """A sequence that has not ended, in whatever state it is."""
        request = self._roster.requests.get(request_id)
        unfinished = request.get_unfinished_seqs() if request else []
        return next((seq for seq in unfinished if seq.index == index), None)

    def fork_request(self, parent: Sequence, branch: Request) -> None:
        """Takes a request of one sequence whose prompt is all that an unfinished one has so far.

        It runs at once on the KV that its parent has, before all that wait, since that KV may be
        gone later. Where the parent has none now, or there is no place or block, it queues as any
        request.
        """
        assert branch.prompt_token_ids == tuple(parent.token_ids)
        self._roster.register(branch)
        self._roster.branch(parent, branch.get_seqs()[0])

    def abort_request(self, request_id: str, indexes: Iterable[int] = ()) -> list[SequenceOutput]:
        """Ends a request, or the named sequences of it, and frees their blocks at once.

        What has ended already, or never was, is passed over.
        """
        request = self._roster.requests.get(request_id)
        if request is None:
            return []
        chosen = set(indexes)
        aborted = [
            seq for seq in request.get_unfinished_seqs() if not chosen or seq.index in chosen
        ]
        for seq in aborted:
            self._finish(seq, RequestStatus.FINISHED_ABORTED)
        self._roster.elect_leader(request)
        return [SequenceOutput(seq, (), finished=True) for seq in aborted]

    def schedule(self) -> SchedulerOutput:
        """Plans one step. None may be in flight."""
        plan = self._new_plan()
        preempted = self._schedule_running(plan)
        if not preempted:
            self._schedule_waiting(plan)
        if self._speculator is not None:
            self._speculator.add_drafts(plan)
        return self._planned(plan)

    def schedule_ahead(self, in_flight: SchedulerOutput) -> SchedulerOutput | None:
        """Plans the step after the one that is in flight; None where it is better read before.

        Preempts nothing, and has no drafts: with a speculator it is always None.
        """
        if self._speculator is not None:
            return None
        plan = self._new_plan()
        running = self._roster.running.values()
        if not plan_ahead(plan, running, in_flight, self._kv, self._limits):
            return None
        self._schedule_waiting(plan)
        return self._planned(plan) if plan.num_tokens else None

    def update_from_output(
        self, output: SchedulerOutput, runner_output: ModelRunnerOutput
    ) -> list[SequenceOutput]:
        """Takes in what a step computed; returns what changed, in the order of the step.

        Steps come in the order of their launch. What is computed of a sequence that ended in the
        meantime is dropped.
        """
        changes: list[SequenceOutput] = []
        for place, (part, token_ids) in enumerate(
            zip(output.scheduled, runner_output.sampled_token_ids, strict=True)
        ):
            seq = self._roster.running.get(part.seq_id)
            if seq is None:
                continue
            request = seq.request
            if place in runner_output.prompt_logprobs:
                request.prompt_logprobs += runner_output.prompt_logprobs[place]
            self._advance(seq, len(part.token_ids) - len(part.draft_token_ids))
            if request.scored_from is not None and not request.lacks_prompt_logprobs:
                changes.append(self._end_score(seq))
            elif not request.forked and part.sample_indexes:
                changes += self._fork(seq, part, token_ids, runner_output.logprobs.get(place, ()))
            elif part.sample_indexes:
                logprobs = runner_output.logprobs.get(place, ())
                changes.append(self._continue(seq, part.draft_token_ids, token_ids, logprobs))
        return changes

    def check_integrity(self) -> None:
        """Asserts that blocks and queues agree; for tests and for idle moments."""
        self._kv.check_integrity()
        if not self._roster.requests:
            assert not self._roster.running and not self._roster.waiting
            assert self._kv.num_free_blocks == self._kv.num_blocks

    def _new_plan(self) -> StepPlan:
        return StepPlan(self._limits.max_num_batched_tokens, self._limits.eos_token_ids)

    def _planned(self, plan: StepPlan) -> SchedulerOutput:
        return SchedulerOutput(plan.scheduled(), self._kv.take_block_copies())

    def _schedule_running(self, plan: StepPlan) -> bool:
        """Plans the running sequences; True if the pool ran out and one was preempted."""
        preempted = False
        for seq in sorted(self._roster.running.values(), key=_decodes_first):
            num_new_tokens = min(seq.num_uncomputed_tokens, plan.budget)
            if seq.status is not RequestStatus.RUNNING or num_new_tokens == 0:
                continue
            while not self._kv.allocate_slots(seq, num_new_tokens):
                victim = self._roster.preempt_last()
                preempted = True
                plan.remove(victim)
                if victim is seq:
                    break
            else:
                plan.add(seq, num_new_tokens)
        return preempted

    def _schedule_waiting(self, plan: StepPlan) -> None:
        """Starts waiting sequences in order while budget, places and blocks last."""
        while plan.budget and (seq := self._roster.start_next()) is not None:
            num_new_tokens = min(seq.num_uncomputed_tokens, plan.budget)
            allocated = self._kv.allocate_slots(seq, num_new_tokens)
            assert allocated, "a sequence starts where there is room for all of it"
            plan.add(seq, num_new_tokens)

    def _fork(
        self,
        leader: Sequence,
        part: ScheduledSequence,
        token_ids: SequenceOf[int],
        logprobs: SequenceOf["PositionLogprobs"],
    ) -> list[SequenceOutput]:
        """Lets the sequences of a request go their own ways from the computed prompt."""
        request = leader.request
        request.forked = True
        for child in request.get_unfinished_seqs():
            if child is not leader:
                self._roster.branch(leader, child)
        seqs = request.get_seqs()
        return [
            self._continue(seqs[index], (), token_ids[drawn:], logprobs[drawn:])
            for drawn, index in enumerate(part.sample_indexes)
            if not seqs[index].status.finished
        ]

    def _end_score(self, seq: Sequence) -> SequenceOutput:
        """Ends a request that only scores, with all that it was to find."""
        self._finish(seq, RequestStatus.FINISHED_LENGTH)
        return SequenceOutput(seq, (), finished=True, logprobs=tuple(seq.request.prompt_logprobs))

    def _advance(self, seq: Sequence, num_tokens: int) -> None:
        """Counts tokens whose KV was computed and that are the sequence's."""
        before = seq.num_computed_tokens
        seq.num_computed_tokens += num_tokens
        self._kv.cache_blocks(seq, before)

    def _continue(
        self,
        seq: Sequence,
        drafts: SequenceOf[int],
        token_ids: SequenceOf[int],
        logprobs: SequenceOf["PositionLogprobs"],
    ) -> SequenceOutput:
        """Adds the first drawn token, and one more for each draft that was right, up to an end.

        `logprobs` has one for each drawn token, or none at all.
        """
        ending = append_token(seq, token_ids[0], logprobs[0] if logprobs else None, self._limits)
        if seq.first_token_time is None:
            seq.first_token_time = self._roster.clock()
        count = 1
        for draft in drafts:
            if ending is not None or token_ids[count - 1] != draft:
                break
            self._advance(seq, 1)
            ending = append_token(
                seq, token_ids[count], logprobs[count] if logprobs else None, self._limits
            )
            count += 1
        added = SequenceOutput(seq, tuple(token_ids[:count]), logprobs=tuple(logprobs[:count]))
        if ending is not None:
            added.finished = True
            _, added.stop_token_id, added.output_complete = ending
            self._finish(seq, ending.status)
        elif drafts:
            self._kv.trim(seq)
        return added

    def _finish(self, seq: Sequence, status: RequestStatus) -> None:
        self._roster.finish(seq, status)
        if self._speculator is not None:
            self._speculator.forget(seq)


def _decodes_first(seq: Sequence) -> bool:
    return seq.num_uncomputed_tokens > 1
