"""What the simulated model says: a token as a function of everything it may depend on.

The state after some tokens is a hash of them, so whatever is lost, doubled or misplaced changes all
that follows. Six candidates come out of it, with scores, and parameters work on these as they do on
logits. The engine's runner and the reference both draw here, each from what it knows itself.
"""

from array import array
from collections.abc import Collection, Sequence

import tokenizers

from folovllm.logprobs import Logprob, PositionLogprobs
from folovllm.sampling_params import SamplingParams
from support.builders.sample_tokenizers import byte_tokenizer
from tokenizer_service.text.tokenizer import Tokenizer

EMPTY = 0x9E3779B97F4A7C15
"""The state before any token."""
_MASK = 2**64 - 1
_MARKERS = ("<think>", "<tool_call>", "</tool_call>", "<|im_start|>")
_NUM_CANDIDATES = 6


def simulation_tokenizer() -> Tokenizer:
    """Bytes, some merges, and all markers of a chat."""
    backend = byte_tokenizer()
    backend.add_tokens([tokenizers.AddedToken(marker, special=False) for marker in _MARKERS])
    return Tokenizer(backend, "simulated")


TOKENIZER = simulation_tokenizer()
VOCAB_SIZE = TOKENIZER.vocab_size
EOS_ID = 261
THINK_START, THINK_END = TOKENIZER.added_token_id("<think>"), TOKENIZER.added_token_id("</think>")
_LETTERS = [*b"abcdefgh" * 5, *b"ijklmnop \n"]
# What is said: mostly few letters, so that strings recur; parts of characters; merges; markers.
_TABLE = (*_LETTERS, *"éß😀".encode(), 256, 258, 259, EOS_ID, THINK_END)[:64]
TABLE = _TABLE + (EOS_ID,) * (64 - len(_TABLE))


def advance(state: int, token_id: int) -> int:
    """The state after one more token."""
    state = (state * 6364136223846793005 + token_id * 1442695040888963407 + 1) & _MASK
    return state ^ (state >> 29)


def state_after(token_ids: Sequence[int]) -> int:
    """The state after these tokens."""
    state = EMPTY
    for token_id in token_ids:
        state = advance(state, token_id)
    return state


def noise(seed: int, index: int, position: int, numerics: str = "same") -> int:
    """64 random bits for one draw; other ones where the numerics are."""
    bits = advance(advance(advance(seed & _MASK, index), position), seed >> 40)
    return bits if numerics == "same" else advance(bits, len(numerics))


def draw(
    state: int,
    bits: int,
    params: SamplingParams,
    prompt: Sequence[int],
    output: Sequence[int],
    banned: Collection[int],
    allowed: Sequence[int] | None,
) -> int:
    """The next token.

    `bits` are the draw's noise. `output` are the ids that penalties count as generated. `allowed`
    are those of the grammar, if there is one.
    """
    plain = not params.alters_logits
    temperature = params.temperature
    best, best_score = -1, -1e9
    for number in range(_NUM_CANDIDATES):
        token_id = TABLE[(state >> 6 * number) & 63]
        if token_id in banned or (allowed is not None and token_id not in allowed):
            continue
        score = float((state >> (36 + 4 * number)) & 15)
        if not plain:
            if params.allowed_token_ids and token_id not in params.allowed_token_ids:
                continue
            score = _adjusted(score, token_id, params, prompt, output)
        score += temperature * ((bits >> 8 * number) & 255) / 32
        if score > best_score:
            best, best_score = token_id, score
    return best if best >= 0 else _any(state, params, banned, allowed)


def _adjusted(
    score: float,
    token_id: int,
    params: SamplingParams,
    prompt: Sequence[int],
    output: Sequence[int],
) -> float:
    for biased, bias in params.logit_bias:
        if biased == token_id:
            score += bias
    if params.penalises:
        count = output.count(token_id)
        if count:
            score -= params.presence_penalty + params.frequency_penalty * count
        if params.repetition_penalty != 1.0 and (count or token_id in prompt):
            score /= params.repetition_penalty
    return score


def _any(
    state: int, params: SamplingParams, banned: Collection[int], allowed: Sequence[int] | None
) -> int:
    """The first id that is allowed, from a place that the state says."""
    ids = allowed if allowed is not None else params.allowed_token_ids or TABLE
    start = (state >> 40) % len(ids)
    for offset in range(len(ids)):
        token_id = ids[(start + offset) % len(ids)]
        if token_id not in banned:
            return token_id
    return ids[start]


def logprobs_of(state: int, token_id: int, num_tops: int) -> PositionLogprobs:
    """A made-up log-probability, whose sums depend on their order, with made-up candidates."""
    value = -((advance(state, token_id) >> 20) % 100_003) / 7177.0
    value = array("f", (value,))[0]  # as a device has it
    tops = tuple(Logprob(TABLE[rank], -float(rank), rank) for rank in range(1, num_tops + 1))
    return PositionLogprobs(Logprob(token_id, value, 1 + state % 5), tops)
