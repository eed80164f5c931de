"""StepPlan: what the next step computes, while that is being decided."""

from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf

from engine_service.core.outputs import ScheduledSequence
from engine_service.core.request import Sequence
from engine_service.core.token_rules import forbidden_token_ids


class StepPlan:
    """Sequences, with how many tokens of each, within a budget of tokens."""

    def __init__(self, token_budget: int) -> None:
        self.budget = token_budget
        """Tokens that are left."""
        self.num_tokens = 0
        """Tokens that are planned."""
        self._num_new_tokens: dict[Sequence, int] = {}
        self._drafts: dict[Sequence, SequenceOf[int]] = {}

    def add(self, seq: Sequence, num_new_tokens: int) -> None:
        """Plans the next tokens of a sequence."""
        self._num_new_tokens[seq] = num_new_tokens
        self._take(num_new_tokens)

    def remove(self, seq: Sequence) -> None:
        """Takes back what was planned of a sequence, if it was; it has no drafts yet."""
        self._take(-self._num_new_tokens.pop(seq, 0))

    def add_drafts(self, seq: Sequence, token_ids: SequenceOf[int]) -> None:
        """Plans tokens that may turn out to follow a planned sequence's last one."""
        self._drafts[seq] = token_ids
        self._take(len(token_ids))

    def decodes(self) -> list[Sequence]:
        """The sequences whose last token is planned and no other."""
        return [
            seq
            for seq, num_new_tokens in self._num_new_tokens.items()
            if num_new_tokens == seq.num_uncomputed_tokens == 1
        ]

    def scheduled(self, eos_token_ids: Iterable[int]) -> tuple[ScheduledSequence, ...]:
        """The plan as the step takes it."""
        return tuple(
            _scheduled_sequence(seq, num_new_tokens, self._drafts.get(seq, ()), eos_token_ids)
            for seq, num_new_tokens in self._num_new_tokens.items()
        )

    def _take(self, num_tokens: int) -> None:
        self.num_tokens += num_tokens
        self.budget -= num_tokens


def _scheduled_sequence(
    seq: Sequence, num_new_tokens: int, drafts: SequenceOf[int], eos_token_ids: Iterable[int]
) -> ScheduledSequence:
    start, end = seq.num_computed_tokens, seq.num_computed_tokens + num_new_tokens
    request = seq.request
    sample_indexes: tuple[int, ...] = ()
    forbidden: list[tuple[int, ...]] = [()]
    if end == seq.num_tokens and request.scored_from is None:
        drawing = [seq] if request.forked else request.get_unfinished_seqs()
        sample_indexes = tuple(seq.index for seq in drawing)
        # Those that draw together have the same tokens so far.
        forbidden = [
            forbidden_token_ids(seq, eos_token_ids, drafts[:count])
            for count in range(len(drafts) + 1)
        ]
    return ScheduledSequence(
        seq_id=seq.seq_id,
        token_ids=[*seq.token_ids[start:end], *drafts],
        num_computed_tokens=start,
        block_table=seq.block_table,
        sampling_params=request.sampling_params,
        seed=request.seed,
        sample_indexes=sample_indexes,
        forbidden_token_ids=forbidden[0],
        token_history=seq.token_ids if request.scored_from is None else request.prompt_token_ids,
        num_prompt_tokens=len(request.prompt_token_ids) - request.num_parent_output_tokens,
        prompt_logprob_positions=request.prompt_logprob_positions(start, end),
        matcher=seq.matcher if sample_indexes else None,
        draft_token_ids=tuple(drafts),
        draft_forbidden_token_ids=tuple(forbidden[1:]),
    )
