"""What takes far more memory than its bytes: many continuations of long prompts, many scores."""

import random
from collections.abc import Iterator

from chaos.attacks.classes.schemas import engine_request
from chaos.attacks.shot import Shot, shot
from chaos.callers.ask import params, prompt
from folovllm.v1 import tokenizer_service_pb2 as messages
from folovllm.v1 import types_pb2

_MODEL_LEN, _LONG_MODEL_LEN = 2048, 40_960
"""Contexts of the embedded model, and of the one that costs nothing."""
_MAX_N = 128


def many_of_long(rng: random.Random) -> Iterator[Shot]:
    """n = 128 and prompts that fill the context, in either service."""
    return _many_of(rng, _MODEL_LEN)


def many_of_longest(rng: random.Random) -> Iterator[Shot]:
    """The same with a long context."""
    return _many_of(rng, _LONG_MODEL_LEN)


def _many_of(rng: random.Random, model_len: int) -> Iterator[Shot]:
    while True:
        tokens = rng.randint(1, 17)
        length = model_len - tokens - rng.randint(0, model_len // 4)
        sampling = params(tokens, n=rng.choice((_MAX_N, _MAX_N, 32)), temperature=1.0)
        if rng.random() < 0.5:
            yield shot("engine", "Generate", engine_request(rng, length, sampling))
        else:
            ids = types_pb2.TokenIds(ids=prompt(str(rng.random()), length))
            request = messages.GenerateRequest(token_ids=ids, sampling_params=sampling)
            yield shot("front end", rng.choice(("Generate", "GenerateOnce")), request)


def many_scores(rng: random.Random) -> Iterator[Shot]:
    """Scores of 128 continuations of a long prompt."""
    most = 100_000
    while True:
        each = rng.randint(1, 400)
        length = min(_MODEL_LEN - each, most - _MAX_N * each)
        continuations = [
            types_pb2.ScoreRequest.Continuation(
                token_ids=types_pb2.TokenIds(ids=prompt(f"{rng.random()}", each))
            )
            for _ in range(_MAX_N)
        ]
        request = types_pb2.ScoreRequest(
            token_ids=types_pb2.TokenIds(ids=prompt(str(rng.random()), length)),
            continuations=continuations,
        )
        yield shot(rng.choice(("engine", "front end")), "Score", request)


def many_logprobs(rng: random.Random) -> Iterator[Shot]:
    """Prompt log-probabilities of all positions, many at once, in the largest answers there are."""
    while True:
        length = _MODEL_LEN - 2
        sampling = params(1, prompt_logprobs=20, logprobs=20, n=rng.choice((1, 1, 8)))
        if rng.random() < 0.5:
            yield shot("engine", "Generate", engine_request(rng, length, sampling))
        else:
            ids = types_pb2.TokenIds(ids=prompt(str(rng.random()), length))
            request = messages.GenerateRequest(token_ids=ids, sampling_params=sampling)
            yield shot("front end", rng.choice(("Generate", "GenerateOnce")), request)
