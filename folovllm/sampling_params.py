"""SamplingParams: how to choose tokens and when to stop.

The one definition of every parameter's default and range, and the one converter to and from the
contract. Meaning, ranges and defaults are vLLM's.
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cache
from typing import Any, Literal, get_args

from folovllm.parameter_checks import (
    UINT32,
    check_bool,
    check_float,
    check_ids,
    check_int,
    check_sequences,
    check_strings,
    invalid,
)
from folovllm.v1 import types_pb2

MAX_N = 128
MAX_STOP_STRINGS = 16
MAX_STOP_STRING_BYTES = 256
MAX_STOP_TOKEN_IDS = 128
MAX_LOGPROBS = 20
MAX_LOGIT_BIAS = 1024
MAX_ALLOWED_TOKEN_IDS = 1024
MAX_BAD_WORDS = 128
MAX_BAD_WORDS_TOKEN_IDS = 512
MAX_GRAMMAR_BYTES = 65536

_UINT64 = 2**64 - 1
_OutputKind = Literal["json_schema", "json_object", "regex", "choice", "grammar"]
_OUTPUT_KINDS = get_args(_OutputKind)


def _checked(default: Any, check: Callable[..., None], *limits: Any) -> Any:
    """A field whose every value passes `check(name, value, *limits)`."""
    return field(default=default, metadata={"check": check, "limits": limits})


def _derived() -> Any:
    """A field that is computed from the others, once, since every step reads it."""
    return field(init=False, repr=False, compare=False)


@cache
def _checks(cls: type) -> list[tuple[str, object, Callable[..., None], tuple[Any, ...]]]:
    return [
        (each.name, each.default, each.metadata["check"], each.metadata["limits"])
        for each in fields(cls)
        if each.metadata
    ]


def _check_bias(name: str, pairs: tuple[tuple[int, float], ...]) -> None:
    check_ids(name, [token_id for token_id, _ in pairs], MAX_LOGIT_BIAS)
    for _, bias in pairs:
        check_float(name, bias, -100.0, 100.0)


@dataclass(frozen=True, slots=True)
class StructuredOutput:
    """A constraint on the whole output, or on what comes after the reasoning.

    `value` is the schema, regular expression or grammar as text, the alternatives of a choice, or
    True for any JSON object.
    """

    kind: _OutputKind
    value: str | tuple[str, ...] | bool


def _check_structured_output(name: str, output: StructuredOutput | None) -> None:
    if output is None:
        return
    if output.kind not in _OUTPUT_KINDS:
        raise invalid(name, f"must be one of {', '.join(_OUTPUT_KINDS)}")
    texts = output.value if isinstance(output.value, tuple) else (output.value,)
    if output.kind != "json_object" and not all(isinstance(t, str) and t for t in texts):
        raise invalid(output.kind, "must not be empty")
    if not texts:
        raise invalid(output.kind, "must hold at least one option")
    size = sum(len(text.encode(errors="replace")) for text in texts if isinstance(text, str))
    if size > MAX_GRAMMAR_BYTES:
        raise invalid(output.kind, f"may hold at most {MAX_GRAMMAR_BYTES} bytes, got {size}")


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Reasoning that may come before the answer, in token ids. Raises InvalidRequestError.

    start_token_id begins it, as the first id of the output; None if the prompt has begun it.
    end_token_id ends it, and is generated after max_tokens ids in between; None is no bound.
    """

    end_token_id: int = _checked(MISSING, check_int, 0, UINT32)
    start_token_id: int | None = _checked(None, check_int, 0, UINT32, True)
    max_tokens: int | None = _checked(None, check_int, 0, UINT32, True)

    def __post_init__(self) -> None:
        for name, _, check, limits in _checks(Reasoning):
            check(f"reasoning.{name}", getattr(self, name), *limits)


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to choose tokens and when to stop. Raises InvalidRequestError for an invalid value.

    temperature 0 is greedy. top_k 0 or -1 keeps all tokens. max_tokens None means up to the model's
    context. With seed None the engine draws one. `stop` may be given as one string. The engine
    keeps bad_words_token_ids from being generated; the ids of bad_words join them.
    """

    n: int = _checked(1, check_int, 1, MAX_N)
    temperature: float = _checked(1.0, check_float, 0.0, 100.0)
    top_p: float = _checked(1.0, check_float, 0.0, 1.0, False)
    top_k: int = _checked(0, check_int, -1, 2**31 - 1)
    min_p: float = _checked(0.0, check_float, 0.0, 1.0)
    seed: int | None = _checked(None, check_int, 0, _UINT64, True)
    max_tokens: int | None = _checked(16, check_int, 1, UINT32, True)
    min_tokens: int = _checked(0, check_int, 0, UINT32)
    stop: tuple[str, ...] = _checked((), check_strings, MAX_STOP_STRINGS, MAX_STOP_STRING_BYTES)
    stop_token_ids: tuple[int, ...] = _checked((), check_ids, MAX_STOP_TOKEN_IDS)
    ignore_eos: bool = _checked(False, check_bool)
    include_stop_str_in_output: bool = _checked(False, check_bool)
    skip_special_tokens: bool = _checked(True, check_bool)
    presence_penalty: float = _checked(0.0, check_float, -2.0, 2.0)
    frequency_penalty: float = _checked(0.0, check_float, -2.0, 2.0)
    repetition_penalty: float = _checked(1.0, check_float, 0.0, 100.0, False)
    logit_bias: tuple[tuple[int, float], ...] = _checked((), _check_bias)
    allowed_token_ids: tuple[int, ...] = _checked((), check_ids, MAX_ALLOWED_TOKEN_IDS)
    bad_words: tuple[str, ...] = _checked((), check_strings, MAX_BAD_WORDS, MAX_STOP_STRING_BYTES)
    bad_words_token_ids: tuple[tuple[int, ...], ...] = _checked(
        (), check_sequences, MAX_BAD_WORDS_TOKEN_IDS
    )
    logprobs: int | None = _checked(None, check_int, 0, MAX_LOGPROBS, True)
    prompt_logprobs: int | None = _checked(None, check_int, 0, MAX_LOGPROBS, True)
    structured_output: StructuredOutput | None = _checked(None, _check_structured_output)
    reasoning: Reasoning | None = None
    greedy: bool = _derived()
    """Whether the most probable token is always taken."""
    alters_logits: bool = _derived()
    """Whether the logits change before the temperature is applied."""
    looks_back: bool = _derived()
    """Whether what may be drawn, or how, depends on the tokens before."""

    def __post_init__(self) -> None:
        self._normalise()
        for name, default, check, limits in _checks(SamplingParams):
            value = getattr(self, name)
            if value is not default:
                check(name, value, *limits)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise invalid(
                "min_tokens", f"({self.min_tokens}) is over max_tokens ({self.max_tokens})"
            )

        penalises = (
            self.repetition_penalty != 1.0
            or self.presence_penalty != 0.0
            or self.frequency_penalty != 0.0
        )
        alters_logits = penalises or self.logit_bias != () or self.allowed_token_ids != ()
        looks_back = penalises or any(len(ids) > 1 for ids in self.bad_words_token_ids)
        object.__setattr__(self, "greedy", self.temperature == 0.0)
        object.__setattr__(self, "alters_logits", alters_logits)
        object.__setattr__(self, "looks_back", looks_back)

    def _normalise(self) -> None:
        """Turns what people write (one stop string, lists, a dict) into tuples."""
        for name in _TUPLES:
            value = getattr(self, name)
            if value == ():
                continue
            if name == "stop" and isinstance(value, str):
                value = (value,)
            elif name == "bad_words_token_ids":
                value = map(tuple, value or ())
            elif name == "logit_bias":
                value = sorted(dict(value or ()).items())
            object.__setattr__(self, name, () if value is None else tuple(value))

    @property
    def follows_grammar(self) -> bool:
        """Whether the output has to follow a grammar."""
        return self.structured_output is not None or self.reasoning is not None

    def clone(self, **changes: object) -> "SamplingParams":
        """A checked copy with some fields changed."""
        return replace(self, **changes)  # type: ignore[arg-type]

    def to_proto(self) -> types_pb2.SamplingParams:
        """The message with every field set, so that it means the same to any server."""
        values = {name: getattr(self, name) for name in _FIELDS}
        values["logit_bias"] = dict(self.logit_bias)
        values["bad_words_token_ids"] = [{"ids": ids} for ids in self.bad_words_token_ids]
        if self.reasoning is not None:
            values["reasoning"] = {
                each.name: getattr(self.reasoning, each.name) for each in fields(Reasoning)
            }
        output = values.pop("structured_output")
        if output is not None:
            values[output.kind] = _output_field(output)
        return types_pb2.SamplingParams(**values)

    @classmethod
    def from_proto(
        cls, message: types_pb2.SamplingParams, defaults: "SamplingParams | None" = None
    ) -> "SamplingParams":
        """Reads a message; a field that is not set takes its value from `defaults`.

        Raises InvalidRequestError that names the first field out of range.
        """
        defaults = defaults or cls()
        values = {name: getattr(defaults, name) for name in _OPTIONAL}
        given = {descriptor.name: value for descriptor, value in message.ListFields()}
        for kind in given.keys() & set(_OUTPUT_KINDS):
            values["structured_output"] = _structured_output(kind, given.pop(kind))
        for name, value in given.items():
            values[name] = _READERS[name](value) if name in _READERS else _shortest(value)
        return cls(**values)


_FIELDS = [each.name for each in fields(SamplingParams) if each.init]
_TUPLES = [each.name for each in fields(SamplingParams) if each.default == ()]
# Scalars that the contract marks `optional`: if one is not set, the model's default applies.
_OPTIONAL = [
    each.name
    for each in types_pb2.SamplingParams.DESCRIPTOR.fields
    if each.has_presence and each.message_type is None and each.name not in _OUTPUT_KINDS
]


def _shortest(value: Any) -> Any:
    """0.7 travels as a 32-bit float; the shortest decimal gives back what the caller wrote."""
    return float(f"{value:.7g}") if isinstance(value, float) else value


def _output_field(output: StructuredOutput) -> object:
    match output.kind:
        case "json_object":
            return types_pb2.AnyJsonObject()
        case "choice":
            return {"options": output.value}
        case _:
            return output.value


def _structured_output(kind: str, field: Any) -> StructuredOutput:
    match kind:
        case "json_object":
            field = True
        case "choice":
            field = tuple(field.options)
    return StructuredOutput(kind, field)  # type: ignore[arg-type]


def _reasoning(message: types_pb2.SamplingParams.Reasoning) -> Reasoning:
    given = {descriptor.name: value for descriptor, value in message.ListFields()}
    return Reasoning(**{"end_token_id": message.end_token_id, **given})


_READERS: Mapping[str, Callable[[Any], object]] = {
    "logit_bias": lambda biases: {token_id: _shortest(bias) for token_id, bias in biases.items()},
    "bad_words_token_ids": lambda sequences: [sequence.ids for sequence in sequences],
    "reasoning": _reasoning,
}
