"""Regular expressions and Lark grammars, likewise; and all kinds together."""

import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Literal

from folovllm.parameters.structured_output import StructuredOutput
from fuzz.grammars import schemas

MAX_GRAMMAR_BYTES = 65_536
"""What the contract allows for a text."""

_Make = Callable[[Random], str]

_REGEX_PARTS = (
    "[a-z]+",
    "[0-9]{1,4}",
    "(yes|no)",
    "x?",
    "\\w",
    "é",
    "[^,]{0,9}",
    "(ab)*",
    "\\.",
    "(?i:q)",
)


def _letter(rng: Random) -> str:
    return rng.choice("abcxyz")


def _regex(rng: Random) -> str:
    return "".join(rng.choice(_REGEX_PARTS) for _ in range(rng.randint(1, 12)))


def _repeat(rng: Random, unit: str) -> str:
    return unit * (rng.choice((10, 500, MAX_GRAMMAR_BYTES)) // len(unit) + 1)


_COSTLY_REGEXES: list[_Make] = [
    lambda rng: f"({_letter(rng)}{{{rng.randint(100, 1000)}}}){{{rng.randint(10, 1000)}}}",
    lambda rng: f"(.|\\n)*{_letter(rng)}.{{{rng.randint(5, 900)}}}",
    lambda rng: f"(a|b)*a(a|b){{{rng.randint(5, 60)}}}",
    lambda rng: _repeat(
        rng, rng.choice(("(a|b)?", "(", "[^", "a{1,9}", "\\p{L}", "(?i)k", "a|", "[a-", "\\"))
    ),
    lambda rng: "|".join(
        f"(.*{c}){{{rng.randint(1, 40)}}}" for c in "abcdefgh"[: rng.randint(1, 8)]
    ),
    lambda rng: f"(\\w{{1,{rng.randint(10, 300)}}}\\s?){{1,{rng.randint(10, 300)}}}",
    lambda rng: "(" * 40 + "a" + "*)?" * 39 + ")",
    lambda rng: "\\p{L}{0,99}" * rng.randint(1, 40),
]


def _lark(rng: Random) -> str:
    names = [f"r{i}" for i in range(rng.randint(1, 8))]
    lines = ["start: r0"]
    for i, name in enumerate(names):
        later = names[i + 1 :] or ['"z"']
        lines.append(
            f'{name}: "{_letter(rng)}" {rng.choice(later)}{rng.choice(("", "?", "*"))} /[0-9]+/'
        )
    return "\n".join(lines)


def _chain(rng: Random) -> str:
    number = rng.choice((10, 500, 3000))
    return "start: r0\n" + "\n".join(f"r{i}: r{i + 1}" for i in range(number)) + f'\nr{number}: "a"'


def _terminals(rng: Random) -> str:
    parts = [
        f"/(.*[{c}-z]){{{rng.randint(1, 12)}}}.*/" for c in "abcdefghijkl"[: rng.randint(2, 12)]
    ]
    if rng.random() < 0.5:
        parts[0] = f"~({parts[0]})"
    return f"start: A\nA: {' & '.join(parts)}"


_COSTLY_LARKS: list[_Make] = [
    _chain,
    _terminals,
    lambda rng: (
        "start: e\ne: " + " | ".join("e " * i for i in range(2, rng.randint(3, 9))) + ' | "a" |'
    ),
    lambda rng: "start: " + " ".join(['("a"|"b")?'] * rng.choice((10, 800, 3000))),
    lambda rng: "start: " + " | ".join(f"/a{i}[a-z]*/" for i in range(rng.choice((10, 3000)))),
    lambda rng: f'start: x{{{rng.randint(1, 99)},{rng.randint(100, 10**6)}}}\nx: "a" | x "b" | ""',
    lambda rng: f"start: %json {schemas.costly(rng)}",
    lambda rng: (
        "start: " + _repeat(rng, rng.choice(('"', "/", "(", "%json{", '"a" ', "<", "[")))[:60_000]
    ),
    lambda rng: (
        f"start: A*\nA: /[a-z]{{1,{rng.randint(10, 900)}}}/ | /[a-z ]{{1,{rng.randint(10, 900)}}}/"
    ),
    lambda rng: "start: " + "x" * rng.choice((5, 60_000)),
]

_Kind = Literal["json_schema", "regex", "grammar", "choice"]
_HARMLESS: dict[_Kind, _Make] = {"json_schema": schemas.harmless, "regex": _regex, "grammar": _lark}
_COSTLY: dict[_Kind, _Make] = {
    "json_schema": schemas.costly,
    "regex": lambda rng: rng.choice(_COSTLY_REGEXES)(rng),
    "grammar": lambda rng: rng.choice(_COSTLY_LARKS)(rng),
}


def generate(seed: int, count: int) -> Iterator[tuple[StructuredOutput, bool]]:
    """So many grammars that a request may ask for, and whether each is meant to be costly."""
    for number in range(count):
        rng = Random(f"{seed} {number}")
        is_costly = number % 2 == 1
        kind = rng.choice(list(_COSTLY))
        text = (_COSTLY if is_costly else _HARMLESS)[kind](rng)
        if kind == "json_schema" and rng.random() < 0.05:
            text = json.dumps(text)[1 : rng.randrange(2, 99)]  # broken
        yield (
            StructuredOutput(kind, text.encode()[:MAX_GRAMMAR_BYTES].decode(errors="ignore")),
            is_costly,
        )
