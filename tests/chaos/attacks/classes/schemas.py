"""What must be compiled: patterns, schemas and grammars that cost far more than their length."""

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

from chaos.attacks.shot import Shot, Target, shot
from chaos.callers.ask import params, prompt
from folovllm.v1 import tokenizer_service_pb2 as messages
from folovllm.v1 import types_pb2

_PATTERN_BYTES = 32_000
_PIECES = ("[^", "(?=", "[", "(", "\\", "{", "(?:a|", "a*?", "[a-", "(a*)*", "\\d", "[[:")
_PRIMES = (487, 991, 997, 1987, 2999, 3989, 4973, 4987, 4993, 4999, 7919, 104_729)
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def constrained(rng: random.Random, **structured: Any) -> Shot:
    """A request of one token whose output is bound, to either service."""
    sampling = params(1, **structured)
    if rng.random() < 0.5:
        return shot("engine", "Generate", engine_request(rng, 8, sampling))
    ids = types_pb2.TokenIds(ids=prompt(str(rng.random()), 8))
    return shot(
        "front end", "Generate", messages.GenerateRequest(token_ids=ids, sampling_params=sampling)
    )


def engine_request(
    rng: random.Random, length: int, sampling: types_pb2.SamplingParams
) -> types_pb2.Request:
    """A request with a prompt that no other has."""
    ids = prompt(str(rng.random()), length)
    return types_pb2.Request(prompt_token_ids=ids, sampling_params=sampling)


def chat_with_schema(rng: random.Random, schema: str) -> Shot:
    """The schema as a tool's parameters or as the format of an answer."""
    said = messages.ChatMessage(role=messages.ROLE_USER, content=f"hello {rng.random()}")
    request = messages.ChatRequest(messages=[said], sampling_params=params(1))
    if rng.random() < 0.5:
        request.response_format.json_schema = schema
    else:
        request.tools.add(name="f", parameters=schema)
        request.tool_choice.mode = messages.ToolChoice.MODE_REQUIRED
    return shot("front end", "Chat", request)


def _bound(rng: random.Random, schema: str) -> Shot:
    if rng.random() < 0.3:
        return chat_with_schema(rng, schema)
    return constrained(rng, json_schema=schema)


def patterns(rng: random.Random) -> Iterator[Shot]:
    """Patterns that are slow to judge for whoever looks at them anew from each of their places."""
    yield constrained(rng, json_schema=json.dumps({"type": "string", "pattern": "[^" * 16_000}))
    while True:
        piece = rng.choice(_PIECES)
        size = int(_PATTERN_BYTES ** rng.uniform(0.5, 1.0))
        pattern = rng.choice(("", "^", "a")) + piece * (size // len(piece))
        kind = rng.random()
        if kind < 0.15:
            yield constrained(rng, regex=pattern)
            continue
        inner: Any = {"type": "string", "pattern": pattern}
        if kind < 0.4:
            inner = {"type": "object", "properties": {"a": inner}, "required": ["a"]}
        elif kind < 0.6:
            inner = {"type": "object", "patternProperties": {pattern: {}}}
        yield _bound(rng, json.dumps(inner))


def multiples(rng: random.Random) -> Iterator[Shot]:
    """`multipleOf` of numbers without a common divisor, under its own name or an escaped one."""
    for first, second in ((4999, 4993), (997, 991)):
        yield _bound(rng, _multiples(rng, [first, second]))
    while True:
        numbers: list[float] = [*rng.sample(_PRIMES, rng.randint(1, 4))]
        if rng.random() < 0.3:
            numbers = [number / 10 ** rng.randint(1, 6) for number in numbers]
        yield _bound(rng, _multiples(rng, numbers))


def _multiples(rng: random.Random, numbers: list[float]) -> str:
    parts = [{"multipleOf": number} for number in numbers]
    schema: dict[str, Any] = {"type": rng.choice(("integer", "number")), "allOf": parts}
    if len(parts) == 1:
        schema = {"type": "integer", **parts[0], "minimum": 0, "maximum": 10**9}
    if rng.random() < 0.4:
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    text = json.dumps(schema)
    if rng.random() < 0.5:
        letter = rng.choice("multipleOf")
        escaped = "multipleOf".replace(letter, f"\\u{ord(letter):04x}", 1)
        text = text.replace('"multipleOf"', f'"{escaped}"')
    return text


def distinct_grammars(rng: random.Random) -> Iterator[Shot]:
    """Sound grammars of all kinds, no two alike, so that no cache helps."""
    makers: tuple[Callable[[random.Random], Shot], ...] = (
        _distinct_schema,
        _distinct_regex,
        _distinct_lark,
        _distinct_choice,
    )
    while True:
        yield rng.choice(makers)(rng)


def _word(rng: random.Random, length: int = 8) -> str:
    return "".join(rng.choices(_LETTERS, k=length))


def _distinct_schema(rng: random.Random) -> Shot:
    names = [_word(rng) for _ in range(rng.randint(1, 60))]
    kinds = [{"type": rng.choice(("string", "integer", "boolean"))} for _ in names]
    fields = dict(zip(names, kinds, strict=True))
    return _bound(rng, json.dumps({"type": "object", "properties": fields, "required": names[:20]}))


def _distinct_regex(rng: random.Random) -> Shot:
    words = "|".join(_word(rng) for _ in range(rng.randint(1, 200)))
    return constrained(rng, regex=f"({words}){{1,{rng.randint(1, 50)}}}")


def _distinct_lark(rng: random.Random) -> Shot:
    rules = [f'r{number}: "{_word(rng)}" | /[a-z]{{1,9}}/ r{number + 1}' for number in range(40)]
    return constrained(
        rng, grammar="\n".join(["start: r0", *rules, f'r{len(rules)}: "{_word(rng)}"'])
    )


def _distinct_choice(rng: random.Random) -> Shot:
    options = [_word(rng) for _ in range(rng.randint(2, 500))]
    return constrained(rng, choice=types_pb2.SamplingParams.Choice(options=options))


def scores_of_texts(rng: random.Random) -> Iterator[Shot]:
    """Scores of more texts than there are threads, as many and as long as may be, and more."""
    target: Target = "front end"
    while True:
        count = rng.choice((128, 130, 64))
        length = rng.choice((1, 20, 200))
        texts = [" ".join(_word(rng, 5) for _ in range(length)) for _ in range(count)]
        options = [types_pb2.ScoreRequest.Continuation(text=text) for text in texts]
        request = types_pb2.ScoreRequest(text=_word(rng, 400), continuations=options)
        yield shot(target, "Score", request)
