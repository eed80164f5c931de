"""Which token ids an output must not draw next."""

from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf

from engine_service.core.request import Sequence


def forbidden_token_ids(
    seq: Sequence, eos_token_ids: Iterable[int], drafts: SequenceOf[int] = ()
) -> tuple[int, ...]:
    """What would end a sequence before it has min_tokens, and what would complete a bad word.

    With `drafts`, what must not follow them if they follow the sequence's tokens. One of them may
    be PENDING_TOKEN if no bad word has several ids, since min_tokens only counts.
    """
    params = seq.request.sampling_params
    forbidden: tuple[int, ...] = ()
    if not params.min_tokens and not params.bad_words_token_ids:
        return forbidden
    if seq.num_output_tokens + len(drafts) < params.min_tokens:
        eos = () if params.ignore_eos else eos_token_ids
        forbidden = (*params.stop_token_ids, *eos)
    if params.bad_words_token_ids:
        bad_words = seq.group.bad_words
        ending = _end_of_output(seq, bad_words.longest)
        forbidden += bad_words.completions(ending, drafts)
    return forbidden


def _end_of_output(seq: Sequence, max_tokens: int) -> SequenceOf[int]:
    """The last ids of the output, a parent's included."""
    num_output_tokens = seq.num_output_tokens + seq.request.num_parent_output_tokens
    return seq.token_ids[seq.num_tokens - min(num_output_tokens, max_tokens) :]
