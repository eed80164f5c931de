"""JSON schemas that structured output is tested with, by name. All of them can be satisfied."""

from typing import Any

Schema = dict[str, Any]


def _object(properties: Schema, required: list[str] | None = None, **more: Any) -> Schema:
    """A closed object; all its properties are required unless `required` says which."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties) if required is None else required,
        "additionalProperties": False,
        **more,
    }


def _array(items: Schema, low: int, high: int, **more: Any) -> Schema:
    return {"type": "array", "items": items, "minItems": low, "maxItems": high, **more}


STRING: Schema = {"type": "string", "maxLength": 12}
INTEGER: Schema = {"type": "integer", "minimum": -1000, "maximum": 1000}
BOOLEAN: Schema = {"type": "boolean"}
NULL: Schema = {"type": "null"}
COLOUR: Schema = {"enum": ["red", "green", "blue"]}
POINT = _object({"x": INTEGER, "y": INTEGER})

SCALARS: dict[str, Schema] = {
    "string": {"type": "string"},
    "string_bounded": {"type": "string", "minLength": 3, "maxLength": 5},
    "string_min_only": {"type": "string", "minLength": 4},
    "string_empty": {"type": "string", "maxLength": 0},
    "integer": {"type": "integer"},
    "integer_range": {"type": "integer", "minimum": -17, "maximum": 230},
    "integer_exclusive": {"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 6},
    "integer_at_least": {"type": "integer", "minimum": 12},
    "integer_multiple": {"type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 1000},
    "number": {"type": "number"},
    "number_range": {"type": "number", "minimum": -1.5, "maximum": 2.25},
    "number_exclusive": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    "boolean": BOOLEAN,
    "null": NULL,
    "several_types": {"type": ["integer", "null", "boolean"]},
}

CHOICES: dict[str, Schema] = {
    "enum_strings": COLOUR,
    "enum_mixed": {"enum": ["one", 2, None, True, [3], {"four": 4}]},
    "enum_awkward": {"enum": ['quote "', "back\\slash", "line\nbreak", "é", "\U0001f600", ""]},
    "enum_prefixes": {"enum": ["a", "ab", "abc", "abcd"]},
    "const_string": {"const": "fixed"},
    "const_object": {"const": {"a": [1, 2, {"b": None}]}},
    "const_number": {"const": -12.5},
    "any_of_scalars": {"anyOf": [INTEGER, STRING, NULL]},
    "any_of_objects": {"anyOf": [_object({"a": INTEGER}), _object({"b": STRING})]},
    "one_of_types": {"oneOf": [INTEGER, STRING]},
    "one_of_tagged": {
        "oneOf": [
            _object({"kind": {"const": "circle"}, "radius": INTEGER}),
            _object({"kind": {"const": "square"}, "side": INTEGER}),
        ]
    },
    "any_of_overlapping": {"anyOf": [{"type": "integer", "minimum": 5}, {"type": "integer"}]},
    "all_of_ranges": {"allOf": [{"type": "integer", "minimum": 2}, {"maximum": 9}]},
    "all_of_objects": {
        "allOf": [
            {"type": "object", "properties": {"a": INTEGER}, "required": ["a"]},
            {"type": "object", "properties": {"b": STRING}, "required": ["b"]},
        ]
    },
    "union_in_property": _object({"v": {"anyOf": [POINT, _array(INTEGER, 0, 3), NULL]}}),
    "any_of_nested": {"anyOf": [{"anyOf": [INTEGER, BOOLEAN]}, {"anyOf": [NULL, COLOUR]}]},
}

PATTERNS: dict[str, Schema] = {
    "pattern_whole": {"type": "string", "pattern": "^[a-z]{2,6}-[0-9]{3}$"},
    "pattern_anywhere": {"type": "string", "pattern": "x[0-9]", "maxLength": 10},
    "pattern_begin": {"type": "string", "pattern": "^ab", "maxLength": 8},
    "pattern_alternatives": {"type": "string", "pattern": "^(yes|no|maybe)$"},
    "pattern_escapes": {"type": "string", "pattern": r"^\d+\.\d{2}$"},
    "pattern_quotes": {"type": "string", "pattern": '^"[a-z"]{1,4}"$'},
    "pattern_unicode": {"type": "string", "pattern": "^[à-ü]{1,5}$"},
    "pattern_with_length": {"type": "string", "pattern": "^[ab]*$", "minLength": 3, "maxLength": 6},
    "format_date": {"type": "string", "format": "date"},
    "format_time": {"type": "string", "format": "time"},
    "format_date_time": {"type": "string", "format": "date-time"},
    "format_duration": {"type": "string", "format": "duration"},
    "format_email": {"type": "string", "format": "email"},
    "format_uuid": {"type": "string", "format": "uuid"},
    "format_ipv4": {"type": "string", "format": "ipv4"},
    "format_ipv6": {"type": "string", "format": "ipv6"},
    "format_hostname": {"type": "string", "format": "hostname"},
    "format_uri": {"type": "string", "format": "uri"},
}

ARRAYS: dict[str, Schema] = {
    "array_any": {"type": "array", "maxItems": 3},
    "array_bounds": _array(INTEGER, 2, 4),
    "array_exact": _array(BOOLEAN, 3, 3),
    "array_empty": {"type": "array", "maxItems": 0},
    "array_min_only": {"type": "array", "items": COLOUR, "minItems": 2},
    "array_of_arrays": _array(_array(INTEGER, 2, 2), 1, 3),
    "array_of_objects": _array(POINT, 1, 3),
    "array_of_unions": _array({"anyOf": [INTEGER, COLOUR]}, 1, 5),
    "tuple": {"type": "array", "prefixItems": [INTEGER, STRING, BOOLEAN], "items": False},
    "tuple_and_more": {
        "type": "array",
        "prefixItems": [COLOUR],
        "items": INTEGER,
        "minItems": 1,
        "maxItems": 4,
    },
}

OBJECTS: dict[str, Schema] = {
    "object_any": {"type": "object"},
    "object_closed": POINT,
    "object_empty": _object({}),
    "object_optional": _object({"a": INTEGER, "b": STRING, "c": BOOLEAN}, required=[]),
    "object_some_optional": _object({"a": INTEGER, "b": STRING, "c": NULL}, required=["b"]),
    "object_open": {"type": "object", "properties": {"a": INTEGER}, "required": ["a"]},
    "object_map": {"type": "object", "additionalProperties": INTEGER},
    "object_map_and_properties": {
        "type": "object",
        "properties": {"name": STRING},
        "required": ["name"],
        "additionalProperties": BOOLEAN,
    },
    "object_pattern_properties": {
        "type": "object",
        "patternProperties": {"^n_[a-z]{1,3}$": INTEGER},
        "additionalProperties": False,
    },
    "object_nested": _object({"a": _object({"b": _object({"c": _object({"d": INTEGER})})})}),
    "object_awkward_keys": _object({'a "b"': INTEGER, "c\\d": INTEGER, "é": INTEGER, "": NULL}),
    "object_many": _object({f"property_{i}": BOOLEAN for i in range(20)}),
    "object_many_optional": _object({f"p{i}": BOOLEAN for i in range(12)}, required=[]),
    "person": _object(
        {
            "name": {"type": "string", "minLength": 1, "maxLength": 20},
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "email": {"type": "string", "format": "email"},
            "tags": _array(STRING, 0, 3),
            "address": _object(
                {"street": STRING, "zip": {"type": "string", "pattern": "^\\d{5}$"}}
            ),
        },
        required=["name", "age", "address"],
    ),
    "tool_call": _object(
        {
            "name": {"enum": ["search", "open"]},
            "arguments": {"anyOf": [_object({"query": STRING}), _object({"id": INTEGER})]},
        }
    ),
}

REFERENCES: dict[str, Schema] = {
    "ref": _object({"from": {"$ref": "#/$defs/p"}, "to": {"$ref": "#/$defs/p"}})
    | {"$defs": {"p": POINT}},
    "ref_definitions": {"$ref": "#/definitions/c", "definitions": {"c": COLOUR}},
    "ref_chain": {
        "$ref": "#/$defs/a",
        "$defs": {"a": {"$ref": "#/$defs/b"}, "b": _array({"$ref": "#/$defs/c"}, 1, 2), "c": NULL},
    },
    "ref_in_any_of": {
        "anyOf": [{"$ref": "#/$defs/p"}, {"$ref": "#/$defs/n"}],
        "$defs": {"p": POINT, "n": NULL},
    },
    "recursive_list": {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": _object(
                {"value": INTEGER, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}
            )
        },
    },
    "recursive_tree": _object(
        {"name": COLOUR, "children": {"type": "array", "items": {"$ref": "#"}, "maxItems": 2}}
    ),
    "recursive_expression": {
        "$ref": "#/$defs/e",
        "$defs": {
            "e": {
                "anyOf": [
                    INTEGER,
                    _object(
                        {
                            "op": {"enum": ["+", "-"]},
                            "left": {"$ref": "#/$defs/e"},
                            "right": {"$ref": "#/$defs/e"},
                        }
                    ),
                ]
            }
        },
    },
}

SCHEMAS = SCALARS | CHOICES | PATTERNS | ARRAYS | OBJECTS | REFERENCES
