"""StepResults: what a step computed, applied to the sequences that it was computed for.

Whatever goes wrong with one request ends that request alone. What it has computed is not used
again: its blocks leave the prefix index, and no one reads a slot of a block that it has not written
itself.
"""

from collections.abc import Sequence as SequenceOf
from typing import TYPE_CHECKING

from engine_service.core.kv_cache_manager import KVCacheManager
from engine_service.core.outputs import (
    ModelRunnerOutput,
    ScheduledSequence,
    SchedulerOutput,
    SequenceOutput,
)
from engine_service.core.request import Request, RequestStatus, Sequence, SequenceGroup
from engine_service.core.scheduler_limits import SchedulerLimits
from engine_service.core.sequence_states import SequenceStates
from engine_service.core.spec_decode.speculator import Speculator
from folovllm.parameters.stop_tokens import stop_kind

if TYPE_CHECKING:
    from folovllm.logprobs import PositionLogprobs


class StepResults:
    """Advances, forks and ends sequences. The scheduler's."""

    def __init__(
        self,
        limits: SchedulerLimits,
        kv_cache_manager: KVCacheManager,
        states: SequenceStates,
        speculator: Speculator | None,
    ) -> None:
        self._limits = limits
        self._kv = kv_cache_manager
        self._states = states
        self._speculator = speculator
        self._failures: list[tuple[Request, Exception]] = []

    def apply(
        self, output: SchedulerOutput, runner_output: ModelRunnerOutput
    ) -> list[SequenceOutput]:
        """See Scheduler.update_from_output."""
        changes: list[SequenceOutput] = []
        running = self._states.running
        for index, part in enumerate(output.scheduled):
            seq = running.get(part.seq_id)
            if seq is None:
                continue
            try:
                self._apply(changes, seq, part, runner_output, index)
            except Exception as error:
                self.fail(seq.group, error)
        return changes

    def fail(self, group: SequenceGroup, error: Exception) -> None:
        """Ends all sequences of a request."""
        for seq in group.unfinished_seqs():
            self._kv.uncache(seq)
            self.finish(seq, RequestStatus.FINISHED_FAILED)
        self._failures.append((group.request, error))

    def finish(self, seq: Sequence, status: RequestStatus) -> None:
        """Ends a sequence."""
        self._states.finish(seq, status)
        if self._speculator is not None:
            self._speculator.forget(seq)

    def drain_failures(self) -> list[tuple[Request, Exception]]:
        """See Scheduler.drain_failures."""
        failures, self._failures = self._failures, []
        return failures

    def _apply(
        self,
        changes: list[SequenceOutput],
        seq: Sequence,
        part: ScheduledSequence,
        runner_output: ModelRunnerOutput,
        index: int,
    ) -> None:
        """Adds what changes with one part of a step. Raises what went wrong with it."""
        group = seq.group
        if index in runner_output.failures:
            if part.draft_token_ids and self._speculator is not None:
                # A token that is only guessed may be to blame: the step is repeated without any.
                self._speculator.stop(seq)
                self._kv.trim(seq)
            else:  # not raised: its traceback would hold the prompt
                self.fail(group, runner_output.failures[index])
            return
        if index in runner_output.prompt_logprobs:
            group.prompt_logprobs += runner_output.prompt_logprobs[index]
        self._advance(seq, len(part.token_ids) - len(part.draft_token_ids))
        forks = not group.forked and seq.num_computed_tokens >= seq.num_prompt_tokens
        if forks:
            self._fork(seq)
        if seq.request.scored_from is not None and not group.lacks_prompt_logprobs:
            self.finish(seq, RequestStatus.FINISHED_LENGTH)
            scores = tuple(group.prompt_logprobs)
            changes.append(SequenceOutput(seq, logprobs=scores, finished=True))
        elif part.sample_indexes:
            token_ids = runner_output.sampled_token_ids[index]
            logprobs = runner_output.logprobs.get(index, ())
            if forks:
                changes += self._continue_each(group, part, token_ids, logprobs)
            else:
                changes.append(self._continue(seq, part.draft_token_ids, token_ids, logprobs))

    def _fork(self, leader: Sequence) -> None:
        """Lets the sequences of a request run on their own from the computed prompt."""
        group = leader.group
        group.forked = True
        for index in group.unfinished_indexes():
            if index != leader.index:
                self._states.branch(leader, group, index)

    def _continue_each(
        self,
        group: SequenceGroup,
        part: ScheduledSequence,
        token_ids: SequenceOf[int],
        logprobs: SequenceOf["PositionLogprobs"],
    ) -> list[SequenceOutput]:
        """Appends one of the drawn tokens to each of the sequences that were drawn for."""
        unfinished = group.unfinished_indexes()
        return [
            self._continue(group.seq(index), (), token_ids[drawn:], logprobs[drawn:])
            for drawn, index in enumerate(part.sample_indexes)
            if index in unfinished
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
            seq.group.on_trial = False
        change = SequenceOutput(seq)
        status = self._append(change, token_ids[0], logprobs[0] if logprobs else None)
        count = 1
        for draft in drafts:
            if status is not None or token_ids[count - 1] != draft:
                break
            self._advance(seq, 1)
            status = self._append(change, token_ids[count], logprobs[count] if logprobs else None)
            count += 1
        change.token_ids = tuple(token_ids[:count])
        if logprobs:
            change.logprobs = tuple(logprobs[:count])
        if status is not None:
            change.finished = True
            self.finish(seq, status)
        elif drafts:
            self._kv.trim(seq)
        return change

    def _append(
        self, change: SequenceOutput, token_id: int, logprobs: "PositionLogprobs | None"
    ) -> RequestStatus | None:
        """Appends a token to a sequence; returns the status that it ends with, if it does."""
        seq, eos_token_ids = change.seq, self._limits.eos_token_ids
        seq.append(token_id)
        if logprobs is not None:
            assert logprobs.token.logprob is not None
            seq.cumulative_logprob += logprobs.token.logprob
        params, matcher = seq.request.sampling_params, seq.matcher
        num_tokens = seq.num_tokens
        num_output_tokens = num_tokens - seq.num_prompt_tokens
        stop = stop_kind(token_id, num_output_tokens, params, eos_token_ids)
        if stop is not None:
            if stop == "stop":
                change.stop_token_id = token_id
            return RequestStatus.FINISHED_STOPPED
        if matcher is not None:
            matcher.advance(token_id)
            if matcher.must_stop:
                change.output_complete = token_id not in eos_token_ids
                return RequestStatus.FINISHED_STOPPED
            if matcher.is_spent:
                seq.matcher = None
        if num_output_tokens == params.max_tokens or num_tokens >= self._limits.max_model_len:
            return RequestStatus.FINISHED_LENGTH
        return None
