"""Which token ids a sequence must not draw next."""

from collections.abc import Iterable, Iterator
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
        forbidden += tuple(_completions(seq, params.bad_words_token_ids, drafts))
    return forbidden


def _completions(
    seq: Sequence, bad_words: Iterable[SequenceOf[int]], drafts: SequenceOf[int]
) -> Iterator[int]:
    """The last id of each bad word whose other ids end the output, a parent's included."""
    num_output_tokens = seq.num_output_tokens + seq.request.num_parent_output_tokens + len(drafts)
    for *begun, last in bad_words:
        if len(begun) > num_output_tokens:
            continue
        from_drafts = min(len(begun), len(drafts))
        start = seq.num_tokens + from_drafts - len(begun)
        end = [*seq.token_ids[start:], *drafts[len(drafts) - from_drafts :]]
        if end == begun:
            yield last
