"""Scheduler: which tokens the next step computes.

There is no prefill phase and no decode phase. Each sequence's num_computed_tokens catches up with
its tokens under one token budget; chunked prefill, prefix caching and recomputing after a
preemption are all that one rule. (The idea is vLLM's.)

Order is by priority, then arrival. Sequences that decode go first, so that a long prompt delays
them by one bounded step and never starves them. When the pool runs out, the last in order frees its
blocks and waits to be recomputed; the first in order therefore always advances.

A step may be planned while the one before is in flight, see `core.async_scheduling`. Blocks are
freed all the same when a sequence ends, though a step in flight may still compute a token of it:
steps take effect in the order of their launch, so the next owner of a block writes to it after
that; and nothing else in the step in flight touches what is written then, since a block that is not
full belongs to one sequence alone, and a full one is not written to.
"""

from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf
from typing import TYPE_CHECKING

from engine_service.core.async_scheduling import schedule_running_ahead
from engine_service.core.kv_cache_manager import KVCacheManager
from engine_service.core.outputs import (
    ModelRunnerOutput,
    ScheduledSequence,
    SchedulerOutput,
    SequenceOutput,
)
from engine_service.core.request import Request, RequestStatus, Sequence, SequenceGroup
from engine_service.core.scheduler_limits import SchedulerLimits
from engine_service.core.scheduler_output_builder import SchedulerOutputBuilder
from engine_service.core.sequence_states import SequenceStates
from engine_service.core.spec_decode.speculator import Speculator
from engine_service.core.token_matcher import TokenMatcher

if TYPE_CHECKING:
    from folovllm.logprobs import PositionLogprobs


class Scheduler:
    """Owns every unfinished request. Single-threaded; the engine's thread calls it."""

    def __init__(
        self,
        limits: SchedulerLimits,
        kv_cache_manager: KVCacheManager,
        speculator: Speculator | None = None,
    ) -> None:
        """Without a speculator each step adds at most one token to a sequence."""
        self._limits = limits
        self._kv = kv_cache_manager
        self._speculator = speculator
        self._states = SequenceStates(limits.max_num_seqs, kv_cache_manager)

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

    def add_request(self, request: Request, matcher: TokenMatcher | None = None) -> None:
        """Queues a request that the engine has admitted; its id is not in use.

        `matcher` is at the start of the grammar that its outputs must follow.
        """
        group = SequenceGroup(request, matcher)
        self._states.register(group)
        self._states.waiting.add(group.get_seqs()[0])

    def find_unfinished(self, request_id: str, index: int) -> Sequence | None:
        """A sequence that has not ended, if there is one of this index."""
        group = self._states.groups.get(request_id)
        unfinished = group.get_unfinished_seqs() if group else []
        return next((seq for seq in unfinished if seq.index == index), None)

    def fork_request(
        self, parent: Sequence, branch: Request, matcher: TokenMatcher | None = None
    ) -> None:
        """Adds one of `parent.branch_requests`.

        It runs at once on its parent's KV, before all that wait, since that KV may be gone later.
        If the parent has none now, or there is no capacity or block, it queues as any request.
        """
        group = SequenceGroup(branch, matcher)
        self._states.register(group)
        self._states.branch(parent, group.get_seqs()[0])

    def abort_request(self, request_id: str, indexes: Iterable[int] = ()) -> list[SequenceOutput]:
        """Ends a request, or the named sequences of it, and frees their blocks at once.

        Sequences that have ended or never existed are ignored.
        """
        group = self._states.groups.get(request_id)
        if group is None:
            return []
        chosen = set(indexes)
        aborted = [seq for seq in group.get_unfinished_seqs() if not chosen or seq.index in chosen]
        for seq in aborted:
            self._finish(seq, RequestStatus.FINISHED_ABORTED)
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
        if not schedule_running_ahead(builder, running, in_flight, self._kv, self._limits):
            return None
        self._schedule_waiting(builder)
        return self._built(builder) if builder.num_tokens else None

    def update_from_output(
        self, output: SchedulerOutput, runner_output: ModelRunnerOutput
    ) -> list[SequenceOutput]:
        """Applies what a step computed; returns what changed, in the order of the step.

        Steps come in the order of their launch. What was computed of a sequence that has ended
        since is dropped.
        """
        changes: list[SequenceOutput] = []
        for index, (part, token_ids) in enumerate(
            zip(output.scheduled, runner_output.sampled_token_ids, strict=True)
        ):
            seq = self._states.running.get(part.seq_id)
            if seq is None:
                continue
            group = seq.group
            if index in runner_output.prompt_logprobs:
                group.prompt_logprobs += runner_output.prompt_logprobs[index]
            self._advance(seq, len(part.token_ids) - len(part.draft_token_ids))
            if seq.request.scored_from is not None and not group.lacks_prompt_logprobs:
                self._finish(seq, RequestStatus.FINISHED_LENGTH)
                prompt_logprobs = tuple(group.prompt_logprobs)
                changes.append(SequenceOutput(seq, logprobs=prompt_logprobs, finished=True))
            elif part.sample_indexes:
                logprobs = runner_output.logprobs.get(index, ())
                if group.forked:
                    changes.append(self._continue(seq, part.draft_token_ids, token_ids, logprobs))
                else:
                    changes += self._fork(seq, part, token_ids, logprobs)
        return changes

    def _builder(self) -> SchedulerOutputBuilder:
        limits = self._limits
        return SchedulerOutputBuilder(limits.max_num_batched_tokens, limits.eos_token_ids)

    def _built(self, builder: SchedulerOutputBuilder) -> SchedulerOutput:
        return SchedulerOutput(builder.scheduled(), self._kv.drain_block_copies())

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
                builder.add(seq, num_new_tokens)
        return preempted

    def _schedule_waiting(self, builder: SchedulerOutputBuilder) -> None:
        """Starts waiting sequences in order, as far as budget, capacity and blocks allow."""
        while builder.token_budget and (seq := self._states.start_next()) is not None:
            num_new_tokens = min(seq.num_uncomputed_tokens, builder.token_budget)
            allocated = self._kv.allocate_slots(seq, num_new_tokens)
            assert allocated, "a sequence starts only if there is room for all of it"
            builder.add(seq, num_new_tokens)

    def _fork(
        self,
        leader: Sequence,
        part: ScheduledSequence,
        token_ids: SequenceOf[int],
        logprobs: SequenceOf["PositionLogprobs"],
    ) -> list[SequenceOutput]:
        """Lets the sequences of a request run on their own from the computed prompt."""
        leader.group.forked = True
        for child in leader.group.get_unfinished_seqs():
            if child is not leader:
                self._states.branch(leader, child)
        seqs = leader.group.get_seqs()
        return [
            self._continue(seqs[index], (), token_ids[drawn:], logprobs[drawn:])
            for drawn, index in enumerate(part.sample_indexes)
            if not seqs[index].status.finished
        ]

    def _advance(self, seq: Sequence, num_tokens: int) -> None:
        """Counts tokens of the sequence whose KV was computed."""
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
        """Appends the first drawn token, and one more for each correct draft, up to an end.

        `logprobs` has one for each drawn token, or is empty.
        """
        if seq.first_token_time is None:
            seq.first_token_time = self._states.clock()
        change = SequenceOutput(seq)
        status = self._append(change, token_ids[0], logprobs[0] if logprobs else None)
        count = 1
        for draft in drafts:
            if status is not None or token_ids[count - 1] != draft:
                break
            self._advance(seq, 1)
            status = self._append(change, token_ids[count], logprobs[count] if logprobs else None)
            count += 1
        change.token_ids, change.logprobs = tuple(token_ids[:count]), tuple(logprobs[:count])
        if status is not None:
            change.finished = True
            self._finish(seq, status)
        elif drafts:
            self._kv.trim(seq)
        return change

    def _append(
        self, change: SequenceOutput, token_id: int, logprobs: "PositionLogprobs | None"
    ) -> RequestStatus | None:
        """Appends a token to a sequence; returns the status that it ends with, if it does."""
        seq, eos_token_ids = change.seq, self._limits.eos_token_ids
        seq.token_ids.append(token_id)
        if logprobs is not None:
            assert logprobs.token.logprob is not None
            seq.cumulative_logprob += logprobs.token.logprob
        params, matcher = seq.request.sampling_params, seq.matcher
        if seq.num_output_tokens > params.min_tokens:
            if token_id in eos_token_ids and not params.ignore_eos:
                return RequestStatus.FINISHED_STOPPED
            if token_id in params.stop_token_ids:
                change.stop_token_id = token_id
                return RequestStatus.FINISHED_STOPPED
        if matcher is not None:
            if not matcher.advance(token_id):
                return RequestStatus.FINISHED_ABORTED
            if matcher.must_stop:
                change.output_complete = token_id not in eos_token_ids
                return RequestStatus.FINISHED_STOPPED
            if matcher.is_spent:
                seq.matcher = None
        if seq.num_output_tokens == params.max_tokens:
            return RequestStatus.FINISHED_LENGTH
        full = seq.num_tokens >= self._limits.max_model_len
        return RequestStatus.FINISHED_LENGTH if full else None

    def _finish(self, seq: Sequence, status: RequestStatus) -> None:
        self._states.finish(seq, status)
        if self._speculator is not None:
            self._speculator.forget(seq)


def _prefills(seq: Sequence) -> bool:
    return seq.num_uncomputed_tokens > 1
