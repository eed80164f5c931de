"""A JSON schema as parsed text, and the schemas within it."""

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from engine_service.structured_output.library import GrammarError

# Whose values are schemas under names of their own.
_NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
# Whose values are data.
_DATA = frozenset({"const", "enum", "default", "examples", "example"})
# What binds the same value as the schema that it stands in.
_IN_PLACE = frozenset({"allOf", "anyOf", "oneOf"})


def parse_schema(text: str) -> Any:
    """Numbers as Decimal. Raises GrammarError if it is not JSON, or names a key twice."""
    try:
        return json.loads(text, parse_int=_number, parse_float=_number, object_pairs_hook=_members)
    except (ValueError, RecursionError) as error:
        raise GrammarError(f"the schema is not JSON: {error}") from None


def each_subschema(schema: Any, deep: bool = True) -> Iterator[dict[str, Any]]:
    """The schemas within a schema, and itself; each once.

    Not `deep`: only those directly below it, of other values than its own.
    """
    nodes = [schema] if deep else _below(schema, in_place=False)
    while nodes:
        node = nodes.pop()
        if isinstance(node, dict):
            yield node
            if deep:
                nodes += _below(node, in_place=True)


def _below(node: dict[str, Any], in_place: bool) -> list[Any]:
    found: list[Any] = []
    for key, value in node.items():
        if key in _DATA or (key in _IN_PLACE and not in_place):
            continue
        if key in _NAMED and isinstance(value, dict):
            found += value.values()
        elif isinstance(value, list):
            found += value
        else:
            found.append(value)
    return found


def _number(text: str) -> Decimal:
    try:
        return Decimal(text)
    except ArithmeticError:  # its exponent is out of all bounds
        return Decimal("Infinity")


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        # Which of the two counts depends on who reads it.
        raise GrammarError("a key appears twice in the same object")
    return members
