"""SchedulerOutputBuilder: what the next step computes, while that is being decided."""

from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf
from dataclasses import replace

from engine_service.core.forbidden_tokens import forbidden_token_ids
from engine_service.core.outputs import PENDING_TOKEN, ScheduledSequence
from engine_service.core.request import Sequence

_PENDING = (PENDING_TOKEN,)


class SchedulerOutputBuilder:
    """Collects the tokens that a step computes, within a token budget."""

    def __init__(self, token_budget: int, eos_token_ids: Iterable[int]) -> None:
        self.token_budget = token_budget
        """Tokens that may still be added."""
        self.num_tokens = 0
        """Tokens that have been added."""
        self._eos_token_ids = eos_token_ids
        self._scheduled: dict[Sequence, ScheduledSequence] = {}

    def add(
        self, seq: Sequence, num_new_tokens: int, num_in_flight: int = 0, pending: bool = False
    ) -> None:
        """Adds the next tokens of a sequence.

        They come after `num_in_flight` tokens that the step in flight computes. `pending` says that
        that step also draws a token, which is then the one to add.
        """
        request, group = seq.request, seq.group
        start = seq.num_computed_tokens + num_in_flight
        end = start + num_new_tokens
        num_known = seq.num_tokens
        token_ids: SequenceOf[int]
        if pending:
            token_ids, num_known = _PENDING, num_known + 1
        elif num_new_tokens == 1 and end == num_known > seq.num_prompt_tokens:  # most often
            token_ids = (seq.token_ids.own[-1],)
        else:
            token_ids = seq.token_ids.part(start, end)
        sample_indexes: tuple[int, ...] = ()
        forbidden: tuple[int, ...] = ()
        if end == num_known and request.scored_from is None:
            together = not group.forked and request.continued is None
            sample_indexes = tuple(group.unfinished_indexes()) if together else (seq.index,)
            # Sequences that draw together have the same tokens so far.
            forbidden = forbidden_token_ids(seq, self._eos_token_ids, _PENDING if pending else ())
        self._scheduled[seq] = ScheduledSequence(
            seq_id=seq.seq_id,
            token_ids=token_ids,
            num_computed_tokens=start,
            block_table=seq.block_table,
            sampling_params=request.sampling_params,
            seed=request.seed,
            sample_indexes=sample_indexes,
            forbidden_token_ids=forbidden,
            token_history=seq.token_ids,
            num_prompt_tokens=seq.num_prompt_tokens - request.num_parent_output_tokens,
            prompt_logprob_positions=group.prompt_logprob_positions(start, end),
            matcher=seq.matcher if sample_indexes else None,
            runner_state=seq.runner_state,
        )
        self._count(num_new_tokens)

    def remove(self, seq: Sequence) -> None:
        """Removes a sequence, which has no drafts yet, if it was added."""
        scheduled = self._scheduled.pop(seq, None)
        if scheduled is not None:
            self._count(-scheduled.num_scheduled_tokens)

    def add_drafts(self, seq: Sequence, token_ids: SequenceOf[int]) -> None:
        """Adds tokens that may turn out to follow the last one of a sequence that was added."""
        scheduled = self._scheduled[seq]
        self._scheduled[seq] = replace(
            scheduled,
            token_ids=[*scheduled.token_ids, *token_ids],
            draft_token_ids=tuple(token_ids),
            draft_forbidden_token_ids=tuple(
                forbidden_token_ids(seq, self._eos_token_ids, token_ids[: count + 1])
                for count in range(len(token_ids))
            ),
        )
        self._count(len(token_ids))

    def decodes(self) -> list[Sequence]:
        """The sequences of which only the last token is to be computed."""
        return [
            seq
            for seq, scheduled in self._scheduled.items()
            if scheduled.num_scheduled_tokens == seq.num_uncomputed_tokens == 1
        ]

    def scheduled(self) -> tuple[ScheduledSequence, ...]:
        """What was added, as the step takes it."""
        return tuple(self._scheduled.values())

    def _count(self, num_tokens: int) -> None:
        self.num_tokens += num_tokens
        self.token_budget -= num_tokens
