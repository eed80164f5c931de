"""How many units the numbers under multipleOf come to, also where a schema combines them.

The library makes an automaton of as many states as the number has units, with no limit of its own:
10,000 take 0.1 s, a million minutes. Of two numbers that bind the same value, as under allOf, it
makes one for their least common multiple.
"""

import math
from collections.abc import Iterator, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple
from urllib.parse import unquote

from engine_service.structured_output.judgement.schema_nodes import each_subschema
from engine_service.structured_output.library import GrammarError

_MAX_UNITS = 50_000
_MAX_MAGNITUDE = 20


class _Size(NamedTuple):
    """Units of a number, or of several together, counted in this many decimal places."""

    units: int = 1
    places: int = 0

    def __mul__(self, other: "_Size") -> "_Size":  # type: ignore[override]
        """A bound on what binds a value together with the other."""
        places = max(self.places, other.places)
        units = [size.units * 10 ** (places - size.places) for size in (self, other) if size != ONE]
        return _Size(min(math.prod(units), 10**40), places)

    def __or__(self, other: "_Size") -> "_Size":
        """A bound on both, if they bind different values."""
        return _Size(max(self.units, other.units), max(self.places, other.places))


ONE = _Size()


def check_multiples(schema: Any) -> None:
    """Raises GrammarError if a parsed schema's numbers come to more units than can be served."""
    own = {id(node): size for node in each_subschema(schema) if (size := _own_size(node))}
    total = sum(size.units for size in own.values())
    if total > _MAX_UNITS:
        raise _too_many("the numbers under multipleOf", total)
    if len(own) > 1:
        _Combinations(schema, own).size_of(schema)


class _Combinations:
    """Bounds what a schema combines, each part of it once."""

    def __init__(self, schema: Any, own: Mapping[int, _Size]) -> None:
        self._schema = schema
        self._own = own
        self._known: dict[int, _Size] = {}
        # No combination comes to more than all numbers do together.
        multiples = {Fraction(size.units, 10**size.places) for size in own.values()}
        numerator = math.lcm(*(each.numerator for each in multiples))
        places = max(size.places for size in own.values())
        self._most = Fraction(numerator, math.gcd(*(each.denominator for each in multiples)))
        self._most *= 10**places

    def size_of(self, node: Any) -> _Size:
        """A bound for what binds one value by a schema, or one within it."""
        if not isinstance(node, dict):
            return ONE
        if id(node) not in self._known:
            self._known[id(node)] = ONE  # of a schema that leads back to itself
            self._known[id(node)] = self._measure(node)
        return self._known[id(node)]

    def _measure(self, node: dict[str, Any]) -> _Size:
        groups = [size for size in self._groups(node) if size != ONE]
        together = ONE
        for size in groups:
            together *= size
        if len(groups) > 1 and min(Fraction(together.units), self._most) > _MAX_UNITS:
            raise _too_many("numbers under multipleOf that bind one value", together.units)
        return together

    def _groups(self, node: dict[str, Any]) -> Iterator[_Size]:
        """Of what binds the same value, or the same part of it."""
        beside = self._own.get(id(node), ONE)
        for child in each_subschema(node, deep=False):
            beside |= self.size_of(child)
        yield beside
        for key in ("allOf", "anyOf", "oneOf"):
            parts = node.get(key)
            sizes = [self.size_of(part) for part in parts] if isinstance(parts, list) else []
            if key == "allOf":
                yield from sizes
                continue
            largest = ONE
            for size in sizes:
                largest |= size
            yield largest
        reference = node.get("$ref")
        if isinstance(reference, str):
            yield self.size_of(_find(self._schema, reference))


def _own_size(node: dict[str, Any]) -> _Size | None:
    """Of the schema's own multipleOf; None if it has none."""
    value = node.get("multipleOf")
    if not isinstance(value, Decimal):
        return None
    if not value.is_finite() or abs(value.adjusted()) > _MAX_MAGNITUDE:
        raise GrammarError("multipleOf: a number is out of range")
    places = max(0, -int(value.as_tuple().exponent))
    if places > 4 * _MAX_MAGNITUDE:
        raise GrammarError("multipleOf: a number has too many decimal places")
    return _Size(max(1, int(abs(value).scaleb(places))), places)


def _find(schema: Any, reference: str) -> Any:
    """What a reference within a schema names; None if that is nothing."""
    found = schema
    for part in unquote(reference).removeprefix("#").split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, dict):
            found = found.get(name)
        elif isinstance(found, list) and name.isdigit() and int(name[:9]) < len(found):
            found = found[int(name[:9])]
        else:
            return None
    return found


def _too_many(what: str, units: int) -> GrammarError:
    shown = str(units) if units < 10**15 else "a number of"
    return GrammarError(f"{what} come to {shown} units; at most {_MAX_UNITS} can be served")
