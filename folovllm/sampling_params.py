"""SamplingParams: how to choose tokens and when to stop.

The one definition of every parameter's default, and the one converter to and from the contract,
which states the ranges. Meaning, ranges and defaults are vLLM's.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import KW_ONLY, dataclass, field, fields, replace
from operator import is_not
from typing import Any

from folovllm.bounds.table import message_bounds
from folovllm.parameters.checked_fields import checked, checks_of
from folovllm.parameters.checks import (
    ANY_UINT32,
    ANY_UINT64,
    UINT32,
    check_bool,
    check_float,
    check_ids,
    check_int,
    check_sequences,
    check_strings,
    invalid,
)
from folovllm.parameters.local_fields import LOCAL, sent_fields
from folovllm.parameters.reasoning import Reasoning
from folovllm.parameters.structured_output import (
    OUTPUT_KINDS,
    StructuredOutput,
    check_structured_output,
    read_structured_output,
)
from folovllm.parameters.structured_output import (  # where vLLM has them
    GuidedDecodingParams as GuidedDecodingParams,
)
from folovllm.parameters.structured_output import StructuredOutputsParams as StructuredOutputsParams
from folovllm.v1 import types_pb2
from folovllm.vllm_names import VLLM_DEFAULTS, VllmNames, read_vllm_names
from folovllm.vllm_names import RequestOutputKind as RequestOutputKind

_BOUNDS = message_bounds(types_pb2.SamplingParams.DESCRIPTOR)
MAX_N = int(_BOUNDS.range("n").high)
UNTIL_CONTEXT_ENDS = UINT32
"""In the contract, where an unset max_tokens is the default: that of max_tokens None."""


def _derived() -> Any:
    """A field that is computed from the others, once, since every step reads it."""
    return field(init=False, repr=False, compare=False)


def _check_bias(name: str, pairs: tuple[tuple[int, float], ...]) -> None:
    bounds = _BOUNDS.fields[name]
    check_ids(name, [token_id for token_id, _ in pairs], bounds)
    assert bounds.each is not None and bounds.each.range is not None
    for token_id, bias in pairs:
        check_float(f"{name}[{token_id}]", bias, bounds.each.range)


def _check_output_kind(name: str, kind: object) -> None:
    if not isinstance(kind, RequestOutputKind):
        raise invalid(name, f"must be a RequestOutputKind, got {kind!r}")


@dataclass(frozen=True, slots=True)
class SamplingParams(VllmNames):
    """How to choose tokens and when to stop. Raises InvalidRequestError for an invalid value.

    temperature 0 is greedy. top_k 0 or -1 keeps all tokens. max_tokens None means up to the model's
    context. With seed None or -1 the engine draws one. `stop` and
    `bad_words` may be given as one string. The engine keeps bad_words_token_ids from being
    generated; the ids of bad_words join them.
    structured_output may be a dict with one of json, regex, choice, grammar and json_object.

    detokenize False leaves the text empty; truncate_prompt_tokens keeps the prompt's last tokens;
    output_kind is what an AsyncLLM yields. These three work in process: a server takes none of
    them.
    """

    n: int = checked(1, check_int, _BOUNDS.range("n"))
    presence_penalty: float = checked(0.0, check_float, _BOUNDS.range("presence_penalty"))
    frequency_penalty: float = checked(0.0, check_float, _BOUNDS.range("frequency_penalty"))
    repetition_penalty: float = checked(1.0, check_float, _BOUNDS.range("repetition_penalty"))
    temperature: float = checked(1.0, check_float, _BOUNDS.range("temperature"))
    _: KW_ONLY  # so far in vLLM's order
    top_p: float = checked(1.0, check_float, _BOUNDS.range("top_p"))
    top_k: int = checked(0, check_int, _BOUNDS.range("top_k"))
    min_p: float = checked(0.0, check_float, _BOUNDS.range("min_p"))
    seed: int | None = checked(None, check_int, ANY_UINT64, True)
    max_tokens: int | None = checked(16, check_int, _BOUNDS.range("max_tokens"), True)
    min_tokens: int = checked(0, check_int, ANY_UINT32)
    stop: Sequence[str] = checked((), check_strings, _BOUNDS.fields["stop"])
    stop_token_ids: Sequence[int] = checked((), check_ids, _BOUNDS.fields["stop_token_ids"])
    ignore_eos: bool = checked(False, check_bool)
    include_stop_str_in_output: bool = checked(False, check_bool)
    skip_special_tokens: bool = checked(True, check_bool)
    logit_bias: tuple[tuple[int, float], ...] = checked((), _check_bias)
    allowed_token_ids: Sequence[int] = checked((), check_ids, _BOUNDS.fields["allowed_token_ids"])
    bad_words: Sequence[str] = checked((), check_strings, _BOUNDS.fields["bad_words"])
    bad_words_token_ids: tuple[tuple[int, ...], ...] = checked(
        (), check_sequences, _BOUNDS.fields["bad_words_token_ids"]
    )
    logprobs: int | None = checked(None, check_int, _BOUNDS.range("logprobs"), True)
    prompt_logprobs: int | None = checked(None, check_int, _BOUNDS.range("prompt_logprobs"), True)
    structured_output: StructuredOutput | None = checked(None, check_structured_output)
    reasoning: Reasoning | None = None
    detokenize: bool = checked(True, check_bool, **LOCAL)
    truncate_prompt_tokens: int | None = checked(
        None, check_int, _BOUNDS.range("max_tokens"), True, **LOCAL
    )
    output_kind: RequestOutputKind = checked(
        RequestOutputKind.CUMULATIVE, _check_output_kind, **LOCAL
    )
    greedy: bool = _derived()
    """Whether the most probable token is always taken."""
    penalises: bool = _derived()
    """Whether the logits of tokens that occurred before change."""
    alters_logits: bool = _derived()
    """Whether the logits change before the temperature is applied."""
    looks_back: bool = _derived()
    """Whether what may be drawn, or how, depends on the tokens before."""

    def __post_init__(self, *vllm_names: Any) -> None:
        if any(map(is_not, vllm_names, VLLM_DEFAULTS)):
            self._take(read_vllm_names(vllm_names))
        self._normalise()
        for name, default, check, limits in checks_of(SamplingParams):
            value = getattr(self, name)
            if value is not default:
                check(name, value, *limits)
        if self.stop and not self.detokenize:
            raise invalid("stop", "needs the text that detokenize=False leaves out")
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
        object.__setattr__(self, "penalises", penalises)
        object.__setattr__(self, "alters_logits", alters_logits)
        object.__setattr__(self, "looks_back", looks_back)

    def _take(self, output: StructuredOutput | None) -> None:
        """Sets a structured output that came under vLLM's name for it."""
        if output is None:
            return
        if self.structured_output not in (None, output):
            raise invalid("structured_outputs", "is structured_output; give one of them")
        object.__setattr__(self, "structured_output", output)

    def _normalise(self) -> None:
        """Turns what people write (one stop string, lists, dicts) into what is kept."""
        if self.seed == -1:
            object.__setattr__(self, "seed", None)
        if self.structured_output is not None:
            output = read_structured_output("structured_output", self.structured_output)
            object.__setattr__(self, "structured_output", output)
        for name in _TUPLES:
            value = getattr(self, name)
            if value != ():
                object.__setattr__(self, name, _as_tuple(name, value))

    @property  # type: ignore[misc]
    def structured_outputs(self) -> StructuredOutput | None:
        """vLLM's name for structured_output."""
        return self.structured_output

    @property
    def all_stop_token_ids(self) -> set[int]:
        """The ids of stop_token_ids; the engine knows the model's own."""
        return set(self.stop_token_ids)

    @property
    def follows_grammar(self) -> bool:
        """Whether the output has to follow a grammar."""
        return self.structured_output is not None or self.reasoning is not None

    def truncate(self, prompt_token_ids: list[int]) -> list[int]:
        """The prompt's last truncate_prompt_tokens ids; by default all."""
        if self.truncate_prompt_tokens is None:
            return prompt_token_ids
        return prompt_token_ids[-self.truncate_prompt_tokens :]

    def clone(self, **changes: Any) -> "SamplingParams":
        """A checked copy with some fields changed."""
        if changes.keys() & {"structured_outputs", "guided_decoding"}:
            changes.setdefault("structured_output", None)
        return replace(self, **{"structured_outputs": None, **changes})

    def with_seed(self, seed: int) -> "SamplingParams":
        """The same with a seed of the contract. Nothing is checked again, which may take long."""
        if seed == self.seed:
            return self
        copied = copy(self)
        object.__setattr__(copied, "seed", seed)
        return copied

    def to_proto(self) -> types_pb2.SamplingParams:
        """The message with every field set, so that it means the same to any server.

        Raises InvalidRequestError for a parameter that no server takes.
        """
        self._check_sendable()
        values = {name: getattr(self, name) for name in _FIELDS}
        if self.max_tokens is None:
            values["max_tokens"] = UNTIL_CONTEXT_ENDS
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

    def _check_sendable(self) -> None:
        in_process = "is for an LLM in this process; no server takes it"
        if not self.detokenize:
            raise invalid("detokenize", f"(false) {in_process}")
        if self.truncate_prompt_tokens is not None:
            raise invalid("truncate_prompt_tokens", in_process)
        if self.output_kind is RequestOutputKind.FINAL_ONLY:
            raise invalid("output_kind", "FINAL_ONLY is for an AsyncLLM; call generate() instead")

    @classmethod
    def from_proto(
        cls, message: types_pb2.SamplingParams, defaults: "SamplingParams | None" = None
    ) -> "SamplingParams":
        """Reads a message; a field that is not set takes its value from `defaults`.

        Raises InvalidRequestError that names the first field out of range.
        """
        values = {name: getattr(defaults, name) for name in _OPTIONAL} if defaults else {}
        given = {descriptor.name: value for descriptor, value in message.ListFields()}
        for kind in given.keys() & _OUTPUT_KINDS:
            values["structured_output"] = _structured_output(kind, given.pop(kind))
        for name, value in given.items():
            values[name] = _READERS[name](value) if name in _READERS else _shortest(value)
        return cls(**values)


_OUTPUT_KINDS = frozenset(OUTPUT_KINDS)
_FIELDS = [each.name for each in sent_fields(SamplingParams)]
_TUPLES = [each.name for each in fields(SamplingParams) if each.default == ()]
# Scalars that the contract marks `optional`: if one is not set, the model's default applies.
_OPTIONAL = [
    each.name
    for each in types_pb2.SamplingParams.DESCRIPTOR.fields
    if each.has_presence and each.message_type is None and each.name not in OUTPUT_KINDS
]


def _as_tuple(name: str, value: Any) -> tuple[Any, ...]:
    try:
        if name in ("stop", "bad_words") and isinstance(value, str):
            value = (value,)
        elif name == "bad_words_token_ids":
            value = map(tuple, value or ())
        elif name == "logit_bias":
            value = sorted(dict(value or ()).items())
        return () if value is None else tuple(value)
    except (TypeError, ValueError):
        raise invalid(name, f"must hold several values, got {value!r:.40}") from None


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
    "max_tokens": lambda count: None if count == UNTIL_CONTEXT_ENDS else count,
    "reasoning": _reasoning,
}
