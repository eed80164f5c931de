"""Bad words: from text that must not be generated to the token ids that the engine forbids."""

from collections.abc import Iterator
from dataclasses import replace

from folovllm.sampling_params import SamplingParams
from tokenizer_service.text.tokenizer import Tokenizer


def resolve_bad_words(params: SamplingParams, tokenizer: Tokenizer) -> SamplingParams:
    """The parameters with the ids of bad_words added to bad_words_token_ids, each sequence once.

    Raises InvalidRequestError if there are too many.
    """
    if not params.bad_words:
        return params
    found = [ids for word in params.bad_words for ids in _spellings(word, tokenizer)]
    sequences = tuple(dict.fromkeys((*params.bad_words_token_ids, *found)))
    return replace(params, bad_words_token_ids=sequences)


def _spellings(word: str, tokenizer: Tokenizer) -> Iterator[tuple[int, ...]]:
    """A word's ids at the beginning of a text and, as in vLLM, after a space.

    If the second is the first with ids for the space before it, forbidding the first is enough.
    """
    bare = word.lstrip(" ")
    plain = tuple(tokenizer.encode(bare, add_special_tokens=False))
    spaced = tuple(tokenizer.encode(" " + bare, add_special_tokens=False))
    if plain:
        yield plain
    if spaced and (not plain or spaced[-len(plain) :] != plain):
        yield spaced
