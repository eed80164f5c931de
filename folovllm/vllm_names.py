"""Arguments of vLLM's SamplingParams that ours keep under another name, or cannot follow.

An argument that would change the result, and cannot here, is refused by name; one that can make no
difference here warns by name.
"""

import warnings
from collections.abc import Sequence
from dataclasses import KW_ONLY, InitVar, dataclass, field
from enum import IntEnum
from typing import Any, Self

from folovllm.parameters.checks import invalid
from folovllm.parameters.structured_output import (
    AnyStructuredOutput,
    StructuredOutput,
    read_structured_output,
)


class NoEffectWarning(UserWarning):
    """An argument that means something in vLLM makes no difference here."""


def no_effect(name: str, reason: str) -> None:
    """Warns that an argument makes no difference; `reason` continues the sentence."""
    # Always from this line, so that by default Python shows each text once.
    warnings.warn(f"{name} has no effect: {reason}", NoEffectWarning, stacklevel=1)


class RequestOutputKind(IntEnum):
    """Which RequestOutputs an AsyncLLM yields while it generates."""

    CUMULATIVE = 0
    """All that has been generated so far, each time."""
    DELTA = 1
    """What is new."""
    FINAL_ONLY = 2
    """Nothing before the end."""


def _refused(reason: str, default: object = None) -> Any:
    return field(default=default, metadata={"refused": reason})


def _ignored(reason: str, default: bool) -> Any:
    return field(default=default, metadata={"ignored": reason})


@dataclass(frozen=True, slots=True)
class VllmNames:
    """The base of SamplingParams, which hands the values of these to `read_vllm_names`."""

    _: KW_ONLY
    structured_outputs: InitVar[AnyStructuredOutput | None] = None
    guided_decoding: InitVar[AnyStructuredOutput | None] = None

    spaces_between_special_tokens: InitVar[bool] = _ignored(
        "text never has spaces that no token stands for", True
    )
    skip_clone: InitVar[bool] = _ignored("parameters never change, so that none are copied", False)
    flat_logprobs: InitVar[bool] = _ignored("logprobs of any form are indexed alike", False)

    best_of: InitVar[int | None] = _refused("ask for n, and choose by cumulative_logprob", 1)
    logits_processors: InitVar[object] = _refused(
        "use logit_bias, allowed_token_ids, bad_words or structured_output"
    )
    extra_args: InitVar[object] = _refused("nothing reads them")
    logprob_token_ids: InitVar[object] = _refused("use logprobs, or score the continuations")
    prompt_logprob_token_ids: InitVar[object] = _refused("score the continuations instead")
    prompt_logprob_start: InitVar[object] = _refused("score the continuations instead")
    thinking_token_budget: InitVar[object] = _refused(
        "use reasoning=Reasoning(…, max_tokens=…), or thinking_budget in a chat", -1
    )
    skip_reading_prefix_cache: InitVar[object] = _refused("use a cache_salt of the request's own")
    stream_interval: InitVar[object] = _refused("pieces merge while their reader is slow")
    repetition_detection: InitVar[object] = _refused("use repetition_penalty")
    watermarking: InitVar[object] = _refused("text gets no watermark")
    routed_experts_prompt_start: InitVar[object] = _refused("no model here has experts", 0)
    trace_decode_token_ids: InitVar[object] = _refused("score the tokens instead")

    @classmethod
    def from_optional(cls, **given: Any) -> Self:
        """As vLLM's: None is the default, except for max_tokens.

        Keys of logit_bias may be strings of digits, and its values are brought into [-100, 100].
        """
        values = {
            name: value
            for name, value in given.items()
            if value is not None or name == "max_tokens"
        }
        if "logit_bias" in values:
            biases = values["logit_bias"]
            values["logit_bias"] = {
                _token_id(key): min(100.0, max(-100.0, bias)) for key, bias in biases.items()
            }
        return cls(**values)


_FIELDS = [*VllmNames.__dataclass_fields__.values()]
VLLM_DEFAULTS = tuple(each.default for each in _FIELDS)
"""In the order in which a dataclass hands them to __post_init__."""


def read_vllm_names(values: Sequence[Any]) -> StructuredOutput | None:
    """What the values, in the order of VLLM_DEFAULTS, mean here: a structured output, if any.

    Raises InvalidRequestError naming what cannot be followed, and warns of what has no effect.
    """
    found: StructuredOutput | None = None
    for each, value in zip(_FIELDS, values, strict=True):
        if value is None or value is each.default:
            continue
        if reason := each.metadata.get("refused"):
            if not _asks_nothing(value, each.default):
                raise invalid(each.name, f"is not supported: {reason}")
        elif reason := each.metadata.get("ignored"):
            no_effect(each.name, reason)
        else:
            given = read_structured_output(each.name, value)
            if found not in (None, given):
                raise invalid(each.name, "is structured_outputs; give one of them")
            found = given
    return found


def _asks_nothing(value: object, default: object) -> bool:
    """Whether a value is like the default; an array is not compared with anything."""
    if isinstance(value, bool | int):
        return value == default or value is False
    return isinstance(value, dict | list) and not value


def _token_id(key: object) -> int:
    try:
        return int(key)  # type: ignore[call-overload,no-any-return]
    except (TypeError, ValueError):
        raise invalid("logit_bias", f"must have token ids as keys, got {key!r}") from None
