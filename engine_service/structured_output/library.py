"""What is asked of llguidance: by the engine, and by the processes that rehearse for it.

Those have to be light, so this imports nothing else.
"""

import time
from collections.abc import Sequence
from pathlib import Path

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

# In the lexer of each sequence, at half a kilobyte each. A string with a maxLength takes about 30
# for each token, so this allows 8,000 tokens; one without takes next to none.
_MAX_LEXER_STATES = 250_000
_MAX_GRAMMAR_SIZE = 100_000
_MAX_ITEMS_IN_ROW = 10_000
# Work, in the library's units: about 50 a microsecond to build, 14 and 20 to fill a mask.
_INITIAL_LEXER_FUEL = 300_000
_STEP_LEXER_FUEL = 100_000
_STEP_MAX_ITEMS = 20_000

# The library's compiler recurses with the text: 2,000 rules that name each other overflow the usual
# 8 MiB, which ends the process. The longest text that a request may have needs about 64 MiB. Only
# pages that are touched use memory.
STACK_BYTES = 256 * 2**20
"""Of a thread that builds a grammar."""


class GrammarError(Exception):
    """A grammar cannot be served; the message says why, without naming the parameter."""


def is_panic(error: BaseException) -> bool:
    """Whether it is a panic of the library, whose class is no Exception and has no public name."""
    return type(error).__name__ == "PanicException"


def read_tokenizer(path: Path, vocab_size: int, eos_token_ids: Sequence[int]) -> LLTokenizer:
    """The vocabulary in a tokenizer.json. Raises OSError, ValueError.

    150,000 ids take about a second, during which no other Python thread runs, and 110 MB.
    """
    text = path.read_text(encoding="utf-8")
    return LLTokenizer(text, n_vocab=vocab_size, eos_token=list(eos_token_ids))


def build(tokenizer: LLTokenizer, source: str, eos_token_ids: Sequence[int]) -> LLMatcher:
    """Compiles a source, fills its first mask and follows its first id.

    Some faults, such as a rule that only names itself, show in the first mask, and only with an id
    do some grammars turn out to be too large. What the lexer learns from the mask stays in the
    result, and in all its copies. Raises GrammarError.
    """
    limits = LLParserLimits(
        initial_lexer_fuel=_INITIAL_LEXER_FUEL,
        step_lexer_fuel=_STEP_LEXER_FUEL,
        step_max_items=_STEP_MAX_ITEMS,
        max_lexer_states=_MAX_LEXER_STATES,
        max_grammar_size=_MAX_GRAMMAR_SIZE,
        max_items_in_row=_MAX_ITEMS_IN_ROW,
        verbose_errors=False,
    )
    template = LLMatcher(tokenizer, source, log_level=0, limits=limits)
    if template.is_error():
        raise GrammarError(template.get_error())
    first = _first_id(template, eos_token_ids)
    if first is not None:
        trial = template.deep_copy()
        trial.consume_token(first)
        if trial.is_error():
            raise GrammarError(trial.get_error())
    return template


def seconds_a_token(template: LLMatcher, eos_token_ids: Sequence[int]) -> float:
    """Processor time of a mask and the token after it: the third longest of the first eight.

    What the lexer has to learn shows in one or two of them, what the grammar costs in more.
    """
    follower = template.deep_copy()
    seconds = []
    for _ in range(8):
        began = time.thread_time()
        try:
            token_id = _first_id(follower, eos_token_ids)
        except GrammarError:  # a dead end is the output's, which ends there
            break
        if token_id is None:
            break
        follower.consume_token(token_id)
        seconds.append(time.thread_time() - began)
    return min(sorted(seconds)[-3:], default=0.0)


def _first_id(template: LLMatcher, eos_token_ids: Sequence[int]) -> int | None:
    """The lowest id that may begin an output; None if it can only be empty."""
    try:
        mask = int.from_bytes(template.compute_bitmask(), "little")
    except ValueError as error:
        raise GrammarError(f"no output can begin ({error})") from None
    if template.is_error():
        raise GrammarError(f"no output can begin ({template.get_error()})")
    for token_id in eos_token_ids:
        mask &= ~(1 << token_id)
    if mask:
        return (mask & -mask).bit_length() - 1
    if not template.is_accepting():
        raise GrammarError("no output can begin: no token is allowed")
    return None
