"""What makes a step of the model costly: parameters of sampling, at the most that may be."""

import random
from collections.abc import Iterator
from typing import Any

from chaos.attacks.classes.schemas import engine_request
from chaos.attacks.shot import Shot, shot
from chaos.callers.ask import params, prompt
from folovllm.v1 import types_pb2

_TOKENS = 1500
_PROMPT = 400


def bad_words(rng: random.Random) -> Iterator[Shot]:
    """Up to 512 sequences of up to 512 ids that must not come, most of them beginning alike."""
    while True:
        count, length = rng.choice((512, 512, 64, 16)), rng.choice((512, 64, 16, 2))
        start = prompt(str(rng.random()), rng.choice((1, length // 2, length - 1)))
        words = [
            types_pb2.TokenIds(ids=[*start, *rng.choices(range(300, 1900), k=length)][:length])
            for _ in range(count)
        ]
        yield _long(rng, bad_words_token_ids=words)


def penalties(rng: random.Random) -> Iterator[Shot]:
    """Penalties that count all tokens of long histories."""
    while True:
        chosen = {
            "presence_penalty": rng.uniform(-2, 2),
            "frequency_penalty": rng.uniform(-2, 2),
            "repetition_penalty": rng.uniform(0.5, 2),
        }
        yield _long(rng, **chosen)


def everything(rng: random.Random) -> Iterator[Shot]:
    """All that a step can be asked for at once."""
    while True:
        yield _long(
            rng,
            temperature=1.0,
            top_p=0.9,
            top_k=50,
            min_p=0.01,
            presence_penalty=0.5,
            repetition_penalty=1.2,
            logit_bias={rng.randrange(2000): rng.uniform(-1, 1) for _ in range(1024)},
            allowed_token_ids=sorted(rng.sample(range(2000), 1024)),
            logprobs=20,
            stop_token_ids=rng.sample(range(1900, 2030), 100),
        )


def plain(rng: random.Random) -> Iterator[Shot]:
    """The same requests without any of it."""
    while True:
        yield _long(rng)


def _long(rng: random.Random, **fields: Any) -> Shot:
    request = engine_request(rng, _PROMPT, params(_TOKENS, **fields))
    return shot("engine", "Generate", request, timeout=120)
