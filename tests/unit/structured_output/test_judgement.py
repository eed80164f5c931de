"""What is refused before the library sees it: from the parsed schema, in linear time."""

import json
from typing import Any, SupportsIndex

import pytest

from engine_service.structured_output.grammar_source import grammar_sources
from engine_service.structured_output.grammar_spec import GrammarSpec
from engine_service.structured_output.judgement.patterns import excludes_escaped
from engine_service.structured_output.judgement.schema import check_schema
from engine_service.structured_output.library import GrammarError
from fuzz.grammars.texts import MAX_GRAMMAR_BYTES
from support.builders.json_schemas import SCHEMAS


class CountedText(str):
    """Counts how often it is looked at."""

    looks = 0

    def __getitem__(self, key: SupportsIndex | slice) -> str:
        self.looks += 1
        return super().__getitem__(key)

    def startswith(self, *arguments: Any) -> bool:
        self.looks += 1
        return super().startswith(*arguments)


@pytest.mark.parametrize(
    "unit", ['[^"', "[^", '[^a"', "[^\\", "\\[^", "[^]", '[^\\"]', "[^a]", "(a|[^b", "[[^", "\\u00"]
)
def test_a_pattern_is_read_once_whatever_it_holds(unit: str) -> None:
    text = CountedText(unit * (32_000 // len(unit)))
    excludes_escaped(text)
    assert text.looks <= 4 * len(text)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (r'^[^"]$', True),
        (r"^[^a\"]$", True),
        (r"^[^\\]$", True),
        (r"^[^\x22]$", True),
        (r"^[^\u005C]$", True),
        (r"x[a-z][^ab\\]", True),
        (r'^[^"', True),
        (r"^[^a]$", False),
        (r'^["\\]$', False),
        (r'\[^"', False),
        (r'^[^\x00-\x1F"\\]*$', False),
        (r'^[^"\\\u0000-\u001f]*$', False),
        ("", False),
        ("\\", False),
        ("[^\\x", False),
        ("[^\\xZZ]", False),
    ],
)
def test_classes_that_the_library_gets_wrong(pattern: str, expected: bool) -> None:
    assert excludes_escaped(pattern) is expected


def number(value: float, **more: Any) -> dict[str, Any]:
    return {"type": "number", "multipleOf": value, **more}


def prop(schema: dict[str, Any], name: str = "a") -> dict[str, Any]:
    return {"type": "object", "properties": {name: schema}}


CYCLE = {"$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}, number(3)]}}, "$ref": "#/$defs/a"}
CHAIN = {
    "$defs": {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i - 1}"}, number(2)]} for i in range(900)},
    "$ref": "#/$defs/d899",
}


@pytest.mark.parametrize(
    "schema",
    [
        number(49_999),
        number(0.01),
        {"allOf": [number(200), number(300)]},
        {"allOf": [number(5000), number(10_000), number(2500), number(3)]},
        {"properties": {str(k): number(k) for k in (4999, 4993, 4987)}},
        {"anyOf": [prop(number(4999)), prop(number(4993))]},
        {"allOf": [prop(number(499)), prop(number(97), "b")]},
        {"$defs": {"a": number(100)}, "allOf": [{"$ref": "#/$defs/a"}, number(40)]},
        {"enum": [{"multipleOf": 10**9}], "properties": {"multipleOf": {"type": "null"}}},
        {"properties": {"enum": number(4)}, "default": {"multipleOf": 10**7}},
        {"allOf": [number(60), number(60), number(60), number(60), number(60)]},
        CYCLE,
    ],
)
def test_multiples_that_can_be_served(schema: dict[str, Any]) -> None:
    check_schema(json.dumps(schema))


@pytest.mark.parametrize(
    "schema",
    [
        number(50_001),
        number(0.50001),
        {"properties": {str(k): number(20_000 + k) for k in range(3)}},
        {"properties": {"enum": number(10**9)}},
        {"allOf": [number(4999), number(4993)]},
        {"allOf": [number(997), number(991)]},
        number(997, allOf=[number(991)]),
        number(997, anyOf=[number(991), {"type": "integer"}]),
        {"allOf": [{"anyOf": [number(997), number(3)]}, {"oneOf": [number(991), number(5)]}]},
        {"allOf": [prop(number(997)), prop(number(991))]},
        {"allOf": [{"items": prop(number(997))}, {"items": prop(number(991))}]},
        {"$defs": {"a": number(997)}, "allOf": [{"$ref": "#/$defs/a"}, number(991)]},
        {"$defs": {"a/b~c": number(997)}, "$ref": "#/$defs/a~1b~0c", **number(991)},
        {"allOf": [{"allOf": [number(499)]}, {"allOf": [{"allOf": [number(491)]}]}]},
        {"allOf": [number(0.001), number(77)]},
        {
            "$defs": {"a": {"allOf": [number(2), {"$ref": "#/$defs/b"}]}, "b": number(49_000)},
            "allOf": [{"$ref": "#/$defs/a"}, number(997)],
        },
    ],
)
def test_multiples_that_come_to_too_much(schema: dict[str, Any]) -> None:
    with pytest.raises(GrammarError, match=r"units; at most 50000 can be served"):
        check_schema(json.dumps(schema))


def test_an_escaped_key_is_the_same_key() -> None:
    text = '{"allOf": [{"multiple\\u004ff": 4999}, {"multipleO\\u0066": 4993}]}'
    with pytest.raises(GrammarError, match="24960007 units"):
        check_schema(text)
    lark = GrammarSpec("grammar", f"start: %json {text}")
    with pytest.raises(GrammarError, match="24960007 units"):
        grammar_sources(lark, (0,))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"type": "string", "type": "null"}', "appears twice"),
        ('{"multipleOf": 1e999999999999999999999}', "out of range"),
        ('{"multipleOf": 0.' + "0" * 90 + "1}", "out of range"),
        ('{"multipleOf": 1.' + "0" * 90 + "1}", "decimal places"),
        ('{"multipleOf": ' + "9" * 5000 + "}", "out of range"),
        ('{"a": NaN,}', "not JSON"),
        (json.dumps(CHAIN), "too many others"),
    ],
)
def test_what_else_is_refused(text: str, message: str) -> None:
    with pytest.raises(GrammarError, match=message):
        check_schema(text)


def test_no_schema_that_is_in_use_is_refused() -> None:
    for schema in SCHEMAS.values():
        check_schema(json.dumps(schema))


def test_what_a_process_is_sent_arrives() -> None:
    for spec in (
        GrammarSpec("regex", "[\ud800é\n]"),
        GrammarSpec("choice", ("a", "b\n")),
        GrammarSpec("json_object", True),
    ):
        assert "\n" not in spec.encode()
        assert GrammarSpec.decode(spec.encode()) == spec
        assert hash(GrammarSpec.decode(spec.encode())) == hash(spec)


def test_a_lark_text_of_nothing_but_openings_is_read_once() -> None:
    for unit in ('"', "/", "<", "%json", "%json{", "#", '"\\', "/\\", "<a"):
        text = unit * (MAX_GRAMMAR_BYTES // len(unit))
        try:
            (source,) = grammar_sources(GrammarSpec("grammar", text), (0,))
        except GrammarError:
            continue
        assert json.loads(source)["grammars"][0]["lark_grammar"] == text
