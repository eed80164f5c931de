"""JSON schemas: what callers write, and what is built to take time or memory."""

import json
from collections.abc import Callable
from random import Random
from typing import Any

from support.builders.json_schemas import SCHEMAS

Schema = dict[str, Any]

_PRIMES = (7, 97, 499, 991, 997, 2503, 4957, 4967, 4969, 4973, 4987, 4993, 4999, 49_999)
_PATTERN_UNITS = (
    '[^"',
    "[^\\\\",
    "(a|b)*",
    "[a-z]{1,9}x",
    "(x?){9}",
    "\\w+\\d",
    "(.*a){3}",
    ".{99}",
)


def harmless(rng: Random) -> str:
    """One of those that the suite follows, or a random one of a few levels."""
    if rng.random() < 0.3:
        return json.dumps(rng.choice(list(SCHEMAS.values())))
    return json.dumps(_any_schema(rng, rng.randint(1, 4)))


def costly(rng: Random) -> str:
    """A schema that is far more work than it is long, or was before something bounded it."""
    return rng.choice(_COSTLY)(rng)


def _any_schema(rng: Random, depth: int) -> Schema:
    if depth == 0 or rng.random() < 0.3:
        return rng.choice(_SCALARS)(rng)
    kind = rng.randrange(4)
    if kind == 0:
        items = _any_schema(rng, depth - 1)
        return {"type": "array", "items": items, "maxItems": rng.randint(1, 20)}
    if kind == 1:
        return {"anyOf": [_any_schema(rng, depth - 1) for _ in range(rng.randint(1, 4))]}
    names = [f"{rng.choice('abcxyz')}{i}" for i in range(rng.randint(1, 8))]
    return {
        "type": "object",
        "properties": {name: _any_schema(rng, depth - 1) for name in names},
        "required": [name for name in names if rng.random() < 0.5],
        "additionalProperties": rng.random() < 0.3,
    }


_SCALARS: list[Callable[[Random], Schema]] = [
    lambda rng: {"type": "string", "maxLength": rng.randint(1, 300)},
    lambda rng: {
        "type": "integer",
        "minimum": -rng.randint(0, 999),
        "maximum": rng.randint(1, 10**9),
    },
    lambda rng: {"type": "number"},
    lambda rng: {"enum": [f"option {i}" for i in range(rng.randint(1, 60))]},
    lambda rng: {"type": "string", "format": rng.choice(["date", "uuid", "ipv4", "date-time"])},
    lambda rng: {"type": ["boolean", "null"]},
]


def _pattern(rng: Random) -> str:
    text = rng.choice(_PATTERN_UNITS) * rng.choice((10, 300, 3000))
    return json.dumps({"type": "string", "pattern": text[:32_000]})


def _patterns_together(rng: Random) -> str:
    parts = [
        {"pattern": f"^(.*{rng.choice('abc')}){{{rng.randint(1, 9)}}}.*$"}
        for _ in range(rng.randint(2, 9))
    ]
    return json.dumps({"type": "string", "allOf": parts})


def _multiples(rng: Random) -> str:
    numbers = rng.sample(_PRIMES, rng.randint(2, 6))
    parts: list[Any] = [{"type": "integer", "multipleOf": number} for number in numbers]
    if rng.random() < 0.3:
        parts = [{"type": "object", "properties": {"a": part}} for part in parts]
    text = json.dumps({rng.choice(("allOf", "allOf", "anyOf", "oneOf")): parts})
    if rng.random() < 0.5:
        text = text.replace("multipleOf", "multiple\\u004ff", rng.randint(1, 3))
    return text


def _bounds(rng: Random) -> str:
    far = 10 ** rng.randint(3, 300)
    return json.dumps(
        rng.choice(
            [
                {"type": "string", "minLength": far % 10**9, "maxLength": 10**9},
                {"type": "array", "items": {"type": "integer"}, "minItems": far % 10**9},
                {"type": "integer", "minimum": -far, "maximum": far + 1},
                {
                    "type": "number",
                    "exclusiveMinimum": 1 / 3,
                    "maximum": 10.0 ** rng.randint(1, 300),
                },
            ]
        )
    )


def _references(rng: Random) -> str:
    depth = rng.choice((5, 20, 60, 300))
    twice = [{"$ref": "#/$defs/d{}"}] * 2
    key = rng.choice(("allOf", "anyOf", "prefixItems"))
    definitions: dict[str, Any] = {
        f"d{i}": json.loads(json.dumps({key: twice}).replace("{}", str(i + 1)))
        for i in range(depth)
    }
    definitions[f"d{depth}"] = {"type": "object", "properties": {"a": {"type": "integer"}}}
    return json.dumps({"$defs": definitions, "$ref": "#/$defs/d0"})


def _products(rng: Random) -> str:
    wide, high = rng.randint(2, 12), rng.randint(2, 12)
    return json.dumps(
        {
            "allOf": [
                {"anyOf": [{"type": "integer", "minimum": i * 7 + j} for j in range(wide)]}
                for i in range(high)
            ]
        }
    )


def _wide(rng: Random) -> str:
    names = [f"p{i}" for i in range(rng.choice((50, 400, 1300)))]
    value = rng.choice([{"type": "string"}, {"type": "number"}, {"enum": ["a", "ab", "abc"]}])
    required = names if rng.random() < 0.3 else []
    return json.dumps(
        {"type": "object", "properties": dict.fromkeys(names, value), "required": required}
    )


def _deep(rng: Random) -> str:
    opening, closing = rng.choice(
        [('{"items":', "}"), ('{"anyOf":[', "]}"), ('{"not":', "}"), ("[", "]")]
    )
    depth = rng.choice((50, 120, 3000))
    return opening * depth + "{}" + closing * depth


def _names(rng: Random) -> str:
    patterns = {
        f"^(.*{chr(97 + i % 26)}){{{i % 5 + 1}}}": {"type": "integer"}
        for i in range(rng.randint(2, 40))
    }
    return json.dumps({"type": "object", "patternProperties": patterns})


_COSTLY = [
    *(_pattern, _patterns_together, _multiples, _bounds, _references),
    *(_products, _wide, _deep, _names),
]
