"""StructuredOutput: what an output must be derivable from, and how callers may write it."""

import json as json_text
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from folovllm.bounds.checks import sized
from folovllm.bounds.table import message_bounds
from folovllm.parameters.checks import check_strings, invalid
from folovllm.v1 import types_pb2

_TEXT_BOUNDS = message_bounds(types_pb2.SamplingParams.DESCRIPTOR).fields
_CHOICE_BOUNDS = message_bounds(types_pb2.SamplingParams.Choice.DESCRIPTOR).fields["options"]

_Kind = Literal["json_schema", "json_object", "regex", "choice", "grammar"]
OUTPUT_KINDS = get_args(_Kind)


@dataclass(frozen=True, slots=True)
class StructuredOutput:
    """A constraint on the whole output, or on what comes after the reasoning.

    `value` is the schema, regular expression or grammar as text, the alternatives of a choice, or
    True for any JSON object. A schema may be given as a dict, alternatives as a list.
    """

    kind: _Kind
    value: str | tuple[str, ...] | bool

    def __post_init__(self) -> None:
        value: Any = self.value
        if self.kind == "json_schema" and isinstance(value, Mapping):
            object.__setattr__(self, "value", json_text.dumps(value))
        elif self.kind == "choice" and isinstance(value, list):
            object.__setattr__(self, "value", tuple(value))


@dataclass(frozen=True, slots=True)
class StructuredOutputsParams:
    """A StructuredOutput as vLLM writes it: exactly one of the first five is given.

    `grammar` is in Lark syntax. Raises InvalidRequestError.
    """

    json: str | Mapping[str, object] | None = None
    regex: str | None = None
    choice: Sequence[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False
    whitespace_pattern: str | None = None
    structural_tag: str | None = None
    backend: str | None = None

    def __post_init__(self) -> None:
        for name, reason in _REFUSED.items():
            if getattr(self, name):
                raise invalid(f"structured_outputs.{name}", f"is not supported: {reason}")
        given = [name for name in _KIND_OF if getattr(self, name) is not None]
        if len(given) != 1:
            found = f"got {' and '.join(given)}" if given else "got none of them"
            raise invalid("structured_outputs", f"takes one of {', '.join(_KIND_OF)}; {found}")
        if self.json_object is False:
            raise invalid("structured_outputs.json_object", "must be true if it is given")

    def to_structured_output(self) -> StructuredOutput:
        """The same constraint as ours."""
        name = next(name for name in _KIND_OF if getattr(self, name) is not None)
        return StructuredOutput(_KIND_OF[name], getattr(self, name))


GuidedDecodingParams = StructuredOutputsParams
"""Its name in older versions of vLLM."""

AnyStructuredOutput = StructuredOutput | StructuredOutputsParams | Mapping[str, Any]

_KIND_OF: dict[str, _Kind] = {
    "json": "json_schema",
    "regex": "regex",
    "choice": "choice",
    "grammar": "grammar",
    "json_object": "json_object",
}
_REFUSED = {
    "disable_any_whitespace": "a grammar can say where white space may be",
    "disable_additional_properties": "write additionalProperties: false into the schema",
    "whitespace_pattern": "a grammar can say where white space may be",
    "structural_tag": "the chat's tools do what it is for",
    "backend": "llguidance compiles every constraint",
}


def read_structured_output(name: str, given: AnyStructuredOutput) -> StructuredOutput:
    """A constraint in any of its forms; errors are about the argument `name`."""
    if isinstance(given, StructuredOutput):
        return given
    if isinstance(given, Mapping):
        known = {each.name for each in fields(StructuredOutputsParams)}
        named = {"json" if key == "json_schema" else key: value for key, value in given.items()}
        if unknown := sorted(map(str, named.keys() - known)):
            raise invalid(
                name,
                f"as a dict has one of {', '.join(_KIND_OF)}, not {', '.join(unknown)}; "
                'a schema is {"json": schema}',
            )
        given = StructuredOutputsParams(**named)
    if isinstance(given, StructuredOutputsParams):
        return given.to_structured_output()
    raise invalid(
        name,
        f"must be a StructuredOutput, StructuredOutputsParams or dict, got {type(given).__name__}",
    )


def check_structured_output(name: str, output: StructuredOutput | None) -> None:
    """Of a known kind, and neither empty nor over the contract's bounds."""
    if output is None or output.kind == "json_object":
        return
    if output.kind not in OUTPUT_KINDS:
        raise invalid(name, f"must be one of {', '.join(OUTPUT_KINDS)}")
    if output.kind == "choice":
        if not isinstance(output.value, tuple):
            raise invalid("choice", "must hold several strings")
        check_strings("choice.options", output.value, _CHOICE_BOUNDS)
        return
    if not isinstance(output.value, str):
        raise invalid(output.kind, "must be a string")
    bounds = _TEXT_BOUNDS[output.kind]
    problem = sized(bounds.min_bytes, bounds.max_bytes, output.value)
    if problem is not None:
        raise invalid(output.kind, problem)
