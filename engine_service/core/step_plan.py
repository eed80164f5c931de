"""StepPlan: what the next step computes, while that is being decided."""

from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf
from dataclasses import replace

from engine_service.core.outputs import PENDING_TOKEN, ScheduledSequence
from engine_service.core.request import Sequence
from engine_service.core.token_rules import forbidden_token_ids

_PENDING = (PENDING_TOKEN,)


class StepPlan:
    """The parts of sequences that a step computes, within a budget of tokens."""

    def __init__(self, token_budget: int, eos_token_ids: Iterable[int]) -> None:
        self.budget = token_budget
        """Tokens that are left."""
        self.num_tokens = 0
        """Tokens that are planned."""
        self._eos_token_ids = eos_token_ids
        self._parts: dict[Sequence, ScheduledSequence] = {}

    def add(
        self, seq: Sequence, num_new_tokens: int, num_in_flight: int = 0, pending: bool = False
    ) -> None:
        """Plans the next tokens of a sequence.

        They come after `num_in_flight` tokens that the step before computes. `pending` says that
        this step also draws a token, which is then the one that is planned.
        """
        request = seq.request
        params = request.sampling_params
        start = seq.num_computed_tokens + num_in_flight
        end = start + num_new_tokens
        following = _PENDING if pending else ()
        sample_indexes: tuple[int, ...] = ()
        forbidden: tuple[int, ...] = ()
        if end == len(seq.token_ids) + len(following) and request.scored_from is None:
            if request.forked:
                sample_indexes = (seq.index,)
            else:
                sample_indexes = tuple(each.index for each in request.get_unfinished_seqs())
            # Those that draw together have the same tokens so far.
            forbidden = forbidden_token_ids(seq, self._eos_token_ids, following)
        self._parts[seq] = ScheduledSequence(
            seq.seq_id,
            following or seq.token_ids[start:end],
            start,
            seq.block_table,
            params,
            request.seed,
            sample_indexes,
            forbidden,
            seq.token_ids if request.scored_from is None else request.prompt_token_ids,
            len(request.prompt_token_ids) - request.num_parent_output_tokens,
            request.prompt_logprob_positions(start, end),
            seq.matcher if sample_indexes else None,
        )
        self._take(num_new_tokens)

    def remove(self, seq: Sequence) -> None:
        """Takes back what was planned of a sequence, if it was; it has no drafts yet."""
        part = self._parts.pop(seq, None)
        if part is not None:
            self._take(-part.num_scheduled_tokens)

    def add_drafts(self, seq: Sequence, token_ids: SequenceOf[int]) -> None:
        """Plans tokens that may turn out to follow a planned sequence's last one."""
        part = self._parts[seq]
        self._parts[seq] = replace(
            part,
            token_ids=[*part.token_ids, *token_ids],
            draft_token_ids=tuple(token_ids),
            draft_forbidden_token_ids=tuple(
                forbidden_token_ids(seq, self._eos_token_ids, token_ids[: count + 1])
                for count in range(len(token_ids))
            ),
        )
        self._take(len(token_ids))

    def decodes(self) -> list[Sequence]:
        """The sequences whose last token is planned and no other."""
        return [
            seq
            for seq, part in self._parts.items()
            if part.num_scheduled_tokens == seq.num_uncomputed_tokens == 1
        ]

    def scheduled(self) -> tuple[ScheduledSequence, ...]:
        """The plan as the step takes it."""
        return tuple(self._parts.values())

    def _take(self, num_tokens: int) -> None:
        self.num_tokens += num_tokens
        self.budget -= num_tokens
