"""What is harmless once and not a thousand times: calls and sessions; and harmless load itself."""

import random
from collections.abc import Iterator

from chaos.attacks.classes.schemas import engine_request
from chaos.attacks.shot import Shot, shot
from chaos.callers.ask import params, prompt
from folovllm.v1 import engine_service_pb2, types_pb2
from folovllm.v1 import tokenizer_service_pb2 as messages

_HELD_SECONDS = 600.0


def harmless(rng: random.Random) -> Iterator[Shot]:
    """Ordinary requests of both services."""
    while True:
        ids = types_pb2.TokenIds(ids=prompt(str(rng.random()), rng.randint(4, 60)))
        sampling = params(rng.randint(4, 32))
        if rng.random() < 0.3:
            request = types_pb2.Request(prompt_token_ids=ids.ids, sampling_params=sampling)
            yield shot("engine", "Generate", request)
        else:
            yield shot(
                "front end",
                "Generate",
                messages.GenerateRequest(token_ids=ids, sampling_params=sampling),
            )


def small_calls(rng: random.Random) -> Iterator[Shot]:
    """The cheapest calls of both services."""
    texts = messages.TokenizeRequest(texts=["hello"])
    while True:
        yield rng.choice(
            (
                shot("front end", "Tokenize", texts, timeout=60),
                shot("front end", "GetModelInfo", types_pb2.GetModelInfoRequest(), timeout=60),
                shot("engine", "GetLoad", engine_service_pb2.GetLoadRequest(), timeout=60),
            )
        )


def small_requests(rng: random.Random) -> Iterator[Shot]:
    """Requests of one token, to both services."""
    while True:
        ids = types_pb2.TokenIds(ids=prompt(str(rng.random()), 4))
        request = messages.GenerateRequest(token_ids=ids, sampling_params=params(1))
        yield shot("front end", "Generate", request, timeout=60)
        yield shot("engine", "Generate", engine_request(rng, 4, params(1)), timeout=60)


def sessions(rng: random.Random) -> Iterator[Shot]:
    """Sessions of an engine that ask for little."""
    while True:
        request = engine_request(rng, 4, params(rng.randint(1, 4)))
        request.request_id = f"session {rng.random()}"
        command = engine_service_pb2.SessionCommand(generate=request)
        yield shot("engine", "Session", command, timeout=rng.uniform(0.5, 4))


def idle_sessions(rng: random.Random) -> Iterator[Shot]:
    """Sessions of an engine that stay open and send no request."""
    while True:
        command = engine_service_pb2.SessionCommand(heartbeat=engine_service_pb2.Heartbeat())
        yield shot("engine", "Session", command, timeout=_HELD_SECONDS)


def idle_streams(rng: random.Random) -> Iterator[Shot]:
    """Streams of a front end that wait for more, for ever."""
    while True:
        part = messages.StreamDetokenizeRequest(token_ids=types_pb2.TokenIds(ids=[300]))
        yield shot("front end", "StreamDetokenize", part, timeout=_HELD_SECONDS)
