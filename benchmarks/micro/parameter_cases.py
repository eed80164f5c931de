"""The parameters that a request may have, each with as much of it as the contract allows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from folovllm.parameters.reasoning import Reasoning
from folovllm.parameters.structured_output import StructuredOutput
from folovllm.sampling_params import MAX_N

MAX_TOKEN_ID = 150_000
# What protos/folovllm/v1/types.proto allows.
_MAX_LOGIT_BIAS = 1024
_MAX_ALLOWED_TOKEN_IDS = 1024
_MAX_STOP_TOKEN_IDS = 128
_MAX_BAD_WORDS = 512
_MAX_LOGPROBS = 20
_LONG = 40_000
_SHORT = 16
# All bad words together may have some 70,000 ids.
_MAX_LONG_WORDS = 136
_MAX_NESTED_WORDS = 370
_REPEATED = 7


@dataclass(frozen=True)
class Case:
    """One of them, for all rows of a step."""

    params: Mapping[str, Any] = field(default_factory=dict)
    num_tokens: int = _SHORT
    """Before the step; half of them are output."""
    repeats: bool = False
    """Whether they are all the same, as in bad words that match for long."""
    of_prompts: bool = False
    """Whether the step is that of the prompts, not one after it."""

    def token_ids(self, numbers: Random) -> list[int]:
        """What comes before the step."""
        if self.repeats:
            return [_REPEATED] * self.num_tokens
        return numbers.choices(range(MAX_TOKEN_ID), k=self.num_tokens)


def _ids(count: int, seed: int = 0) -> list[int]:
    return Random(seed).sample(range(MAX_TOKEN_ID), count)


def _bad_words(*words: list[int], repeats: bool = False) -> Case:
    num_tokens = 2 * _MAX_BAD_WORDS if repeats else _SHORT
    return Case({"bad_words_token_ids": words}, num_tokens, repeats)


def _random(**params: Any) -> Case:
    return Case({"temperature": 1.0, **params})


_PENALTIES = {"presence_penalty": 0.1, "frequency_penalty": 0.1, "repetition_penalty": 1.1}
_LIMITED = {
    "logit_bias": dict.fromkeys(_ids(_MAX_LOGIT_BIAS), 0.5),
    "allowed_token_ids": _ids(_MAX_ALLOWED_TOKEN_IDS),
    "stop_token_ids": _ids(_MAX_STOP_TOKEN_IDS),
    "min_tokens": MAX_TOKEN_ID,
}
# What has no end for a while.
_LONG_JSON = '{"type":"string","minLength":1000}'
_LONG_TEXT = "(.|\\n){1000,2000}"
CASES = {
    "nothing, again": Case(),
    "temperature": _random(),
    "seed": _random(seed=7),
    "top_k 50": _random(top_k=50),
    "top_k 2048": _random(top_k=2048),
    "top_k 100,000": _random(top_k=100_000),
    "top_p": _random(top_p=0.9),
    "top_p, temperature 100": Case({"temperature": 100.0, "top_p": 0.99}),
    "min_p": _random(min_p=0.1),
    "min_p, top_k 100,000, top_p": _random(min_p=0.001, top_k=100_000, top_p=0.9),
    "penalties": Case(_PENALTIES),
    "penalties, 40,000 tokens": Case(_PENALTIES, _LONG),
    "logit_bias": Case({"logit_bias": _LIMITED["logit_bias"]}),
    "allowed_token_ids": Case({"allowed_token_ids": _LIMITED["allowed_token_ids"]}),
    "stop_token_ids": Case({"stop_token_ids": _LIMITED["stop_token_ids"]}),
    "min_tokens, stop_token_ids": Case(
        {name: _LIMITED[name] for name in ("stop_token_ids", "min_tokens")}
    ),
    "bad words of one id": _bad_words(*([token_id] for token_id in _ids(_MAX_BAD_WORDS))),
    "bad words, long": _bad_words(*(_ids(_MAX_BAD_WORDS, seed) for seed in range(_MAX_LONG_WORDS))),
    "bad words, long matches": _bad_words(
        *([*[_REPEATED] * (_MAX_BAD_WORDS - 1), token_id] for token_id in range(_MAX_LONG_WORDS)),
        repeats=True,
    ),
    "bad words, many matches": _bad_words(
        *([*[_REPEATED] * length, length] for length in range(_MAX_NESTED_WORDS)), repeats=True
    ),
    "logprobs": Case({"logprobs": _MAX_LOGPROBS}),
    "json": Case({"structured_output": StructuredOutput("json_schema", _LONG_JSON)}),
    "regex": Case({"structured_output": StructuredOutput("regex", _LONG_TEXT)}),
    "reasoning": Case({"reasoning": Reasoning(_REPEATED, max_tokens=MAX_TOKEN_ID)}),
    "all of these, 40,000 tokens": Case(
        {
            **_PENALTIES,
            **_LIMITED,
            "temperature": 100.0,
            "min_p": 0.001,
            "top_k": 100_000,
            "top_p": 0.99,
            "bad_words_token_ids": [_ids(_MAX_BAD_WORDS, seed) for seed in range(_MAX_LONG_WORDS)],
            "logprobs": _MAX_LOGPROBS,
            "structured_output": StructuredOutput("regex", _LONG_TEXT),
        },
        _LONG,
    ),
    "prompt_logprobs": Case({"prompt_logprobs": _MAX_LOGPROBS}, of_prompts=True),
    "n": Case({"n": MAX_N, "temperature": 1.0}, of_prompts=True),
    "n, logprobs": Case(
        {"n": MAX_N, "temperature": 1.0, "logprobs": _MAX_LOGPROBS}, of_prompts=True
    ),
}
"""By what a line says."""
