"""SamplingParams: how to choose tokens and when to stop.

The one definition of every parameter's default and range, and the one converter to and from the
contract. Meaning, ranges and defaults are vLLM's.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from folovllm.parameter_checks import (
    UINT32,
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

# name: (lowest, highest, may the lowest itself be taken)
_FLOAT_RANGES = {
    "temperature": (0.0, 100.0, True),
    "top_p": (0.0, 1.0, False),
    "min_p": (0.0, 1.0, True),
    "presence_penalty": (-2.0, 2.0, True),
    "frequency_penalty": (-2.0, 2.0, True),
    "repetition_penalty": (0.0, 100.0, False),
}
# name: (lowest, highest, may it be None)
_INT_RANGES = {
    "n": (1, MAX_N, False),
    "top_k": (-1, 2**31 - 1, False),
    "seed": (0, _UINT64, True),
    "max_tokens": (1, UINT32, True),
    "min_tokens": (0, UINT32, False),
    "logprobs": (0, MAX_LOGPROBS, True),
    "prompt_logprobs": (0, MAX_LOGPROBS, True),
}
# Scalars that the contract marks `optional`: where one is not set, the model's default applies.
_OPTIONAL = (*_FLOAT_RANGES, *_INT_RANGES, "skip_special_tokens")
_OUTPUT_KINDS = ("json_schema", "json_object", "regex", "choice", "grammar")


@dataclass(frozen=True, slots=True)
class StructuredOutput:
    """A constraint on the whole output, or on what comes after the reasoning.

    `value` is the schema, regular expression or grammar as text, the alternatives of a choice, or
    True for any JSON object.
    """

    kind: Literal["json_schema", "json_object", "regex", "choice", "grammar"]
    value: str | tuple[str, ...] | bool


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Reasoning that may come before the answer, in token ids. Checked when made.

    start_token_id begins it, as the first id of the output; None where the prompt has begun it.
    end_token_id ends it, and is generated after max_tokens ids in between; None is no bound.
    """

    end_token_id: int
    start_token_id: int | None = None
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        check_int("reasoning.end_token_id", self.end_token_id, 0, UINT32, False)
        check_int("reasoning.start_token_id", self.start_token_id, 0, UINT32, True)
        check_int("reasoning.max_tokens", self.max_tokens, 0, UINT32, True)


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to choose tokens and when to stop. Checked when made; raises InvalidRequestError.

    temperature 0 is greedy. top_k 0 or -1 keeps all tokens. max_tokens None means up to the model's
    context. seed None lets the engine draw one. `stop` may be given as one string. What the
    engine keeps from being generated are bad_words_token_ids; the ids of bad_words join them.
    """

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    max_tokens: int | None = 16
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    allowed_token_ids: tuple[int, ...] = ()
    bad_words: tuple[str, ...] = ()
    bad_words_token_ids: tuple[tuple[int, ...], ...] = ()
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    structured_output: StructuredOutput | None = None
    reasoning: Reasoning | None = None

    def __post_init__(self) -> None:
        self._normalise()
        for name, (low, high, closed) in _FLOAT_RANGES.items():
            check_float(name, getattr(self, name), low, high, closed)
        for name, (lowest, highest, nullable) in _INT_RANGES.items():
            check_int(name, getattr(self, name), lowest, highest, nullable)
        for name in ("ignore_eos", "include_stop_str_in_output", "skip_special_tokens"):
            if not isinstance(getattr(self, name), bool):
                raise invalid(name, "must be true or false")
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise invalid(
                "min_tokens", f"({self.min_tokens}) is over max_tokens ({self.max_tokens})"
            )
        check_strings("stop", self.stop, MAX_STOP_STRINGS, MAX_STOP_STRING_BYTES)
        check_strings("bad_words", self.bad_words, MAX_BAD_WORDS, MAX_STOP_STRING_BYTES)
        check_ids("stop_token_ids", self.stop_token_ids, MAX_STOP_TOKEN_IDS)
        check_ids("allowed_token_ids", self.allowed_token_ids, MAX_ALLOWED_TOKEN_IDS)
        check_sequences("bad_words_token_ids", self.bad_words_token_ids, MAX_BAD_WORDS_TOKEN_IDS)
        check_ids("logit_bias", [token_id for token_id, _ in self.logit_bias], MAX_LOGIT_BIAS)
        for _, bias in self.logit_bias:
            check_float("logit_bias", bias, -100.0, 100.0, True)
        _check_structured_output(self.structured_output)

    def _normalise(self) -> None:
        """Takes what people write (one stop string, lists, a dict) and keeps tuples."""
        stop = self.stop
        object.__setattr__(self, "stop", (stop,) if isinstance(stop, str) else _as_tuple(stop))
        for name in ("stop_token_ids", "allowed_token_ids", "bad_words"):
            object.__setattr__(self, name, _as_tuple(getattr(self, name)))
        sequences = tuple(_as_tuple(ids) for ids in self.bad_words_token_ids or ())
        object.__setattr__(self, "bad_words_token_ids", sequences)
        object.__setattr__(self, "logit_bias", tuple(sorted(dict(self.logit_bias or ()).items())))

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is always taken."""
        return self.temperature == 0.0

    @property
    def alters_logits(self) -> bool:
        """Whether a parameter asks for other logits than the model's, before the temperature."""
        return (
            self.repetition_penalty != 1.0
            or self.presence_penalty != 0.0
            or self.frequency_penalty != 0.0
            or bool(self.logit_bias)
            or bool(self.allowed_token_ids)
        )

    @property
    def looks_back(self) -> bool:
        """Whether what may be drawn, or how, depends on which tokens came before."""
        return (
            self.repetition_penalty != 1.0
            or self.presence_penalty != 0.0
            or self.frequency_penalty != 0.0
            or any(len(token_ids) > 1 for token_ids in self.bad_words_token_ids)
        )

    @property
    def follows_grammar(self) -> bool:
        """Whether something is asked of the output that takes a grammar."""
        return self.structured_output is not None or self.reasoning is not None

    def clone(self, **changes: object) -> "SamplingParams":
        """A checked copy with some fields changed."""
        return replace(self, **changes)  # type: ignore[arg-type]

    def to_proto(self) -> types_pb2.SamplingParams:
        """The message with every field set, so that it means the same to any server."""
        message = types_pb2.SamplingParams(
            stop=self.stop,
            stop_token_ids=self.stop_token_ids,
            ignore_eos=self.ignore_eos,
            include_stop_str_in_output=self.include_stop_str_in_output,
            logit_bias=dict(self.logit_bias),
            allowed_token_ids=self.allowed_token_ids,
            bad_words=self.bad_words,
            bad_words_token_ids=[
                types_pb2.SamplingParams.TokenSequence(ids=ids) for ids in self.bad_words_token_ids
            ],
            reasoning=None if self.reasoning is None else _reasoning_message(self.reasoning),
        )
        for name in _OPTIONAL:
            value = getattr(self, name)
            if value is not None:
                setattr(message, name, value)
        output = self.structured_output
        if output is not None and output.kind == "choice":
            assert isinstance(output.value, tuple)
            message.choice.options.extend(output.value)
        elif output is not None:
            setattr(message, output.kind, output.value)
        return message

    @classmethod
    def from_proto(
        cls, message: types_pb2.SamplingParams, defaults: "SamplingParams | None" = None
    ) -> "SamplingParams":
        """Reads a message; a field that is not set takes its value from `defaults`.

        Raises InvalidRequestError that names the first field out of range.
        """
        defaults = defaults or cls()
        values = {name: getattr(defaults, name) for name in _OPTIONAL}
        for name in _OPTIONAL:
            if message.HasField(name):  # type: ignore[arg-type]
                value = getattr(message, name)
                values[name] = _shortest(value) if isinstance(value, float) else value
        return cls(
            **values,
            stop=tuple(message.stop),
            stop_token_ids=tuple(message.stop_token_ids),
            ignore_eos=message.ignore_eos,
            include_stop_str_in_output=message.include_stop_str_in_output,
            logit_bias=tuple((i, _shortest(bias)) for i, bias in message.logit_bias.items()),
            allowed_token_ids=tuple(message.allowed_token_ids),
            bad_words=tuple(message.bad_words),
            bad_words_token_ids=tuple(tuple(words.ids) for words in message.bad_words_token_ids),
            structured_output=_structured_output(message),
            reasoning=_reasoning(message.reasoning) if message.HasField("reasoning") else None,
        )


def _shortest(value: float) -> float:
    """0.7 travels as a 32-bit float; the shortest decimal gives back what the caller wrote."""
    return float(f"{value:.7g}")


def _as_tuple(values: Iterable[object] | None) -> tuple[object, ...]:
    return tuple(values) if values is not None else ()


def _check_structured_output(output: StructuredOutput | None) -> None:
    if output is None:
        return
    if output.kind not in _OUTPUT_KINDS:
        raise invalid("structured_output", f"must be one of {', '.join(_OUTPUT_KINDS)}")
    texts = output.value if isinstance(output.value, tuple) else (output.value,)
    if output.kind != "json_object" and not all(isinstance(t, str) and t for t in texts):
        raise invalid(output.kind, "must not be empty")
    if not texts:
        raise invalid(output.kind, "must hold at least one option")
    size = sum(len(text.encode(errors="replace")) for text in texts if isinstance(text, str))
    if size > MAX_GRAMMAR_BYTES:
        raise invalid(output.kind, f"may hold at most {MAX_GRAMMAR_BYTES} bytes, got {size}")


def _structured_output(message: types_pb2.SamplingParams) -> StructuredOutput | None:
    kind = message.WhichOneof("structured_output")
    if kind is None or (kind == "json_object" and not message.json_object):
        return None
    if kind == "choice":
        return StructuredOutput(kind, tuple(message.choice.options))
    return StructuredOutput(kind, getattr(message, kind))


def _reasoning(message: types_pb2.SamplingParams.Reasoning) -> Reasoning:
    return Reasoning(
        end_token_id=message.end_token_id,
        start_token_id=message.start_token_id if message.HasField("start_token_id") else None,
        max_tokens=message.max_tokens if message.HasField("max_tokens") else None,
    )


def _reasoning_message(reasoning: Reasoning) -> types_pb2.SamplingParams.Reasoning:
    return types_pb2.SamplingParams.Reasoning(
        start_token_id=reasoning.start_token_id,
        end_token_id=reasoning.end_token_id,
        max_tokens=reasoning.max_tokens,
    )
