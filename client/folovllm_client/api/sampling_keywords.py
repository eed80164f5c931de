"""SamplingKeywords: sampling parameters as keywords of a call, by the names of vLLM and of OpenAI.

They go with `sampling_params`: a keyword sets its field, and the same field set in both is refused.
"""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, TypedDict, cast

from folovllm.errors import InvalidRequestError
from folovllm.parameters.local_fields import sent_fields
from folovllm.parameters.reasoning import Reasoning
from folovllm.parameters.structured_output import StructuredOutput
from folovllm.sampling_params import SamplingParams
from folovllm.v1 import types_pb2

AnySamplingParams = SamplingParams | types_pb2.SamplingParams | None
"""None, and the fields that a message leaves unset, are the model's own defaults."""


class SamplingKeywords(TypedDict, total=False):
    """The fields of SamplingParams, for type checkers, and what OpenAI's API adds.

    None is the same as not given, save for max_tokens.
    """

    n: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    seed: int | None
    max_tokens: int | None
    """None is as many as the model's context has room for."""
    max_completion_tokens: int | None
    """OpenAI's newer name of max_tokens."""
    min_tokens: int | None
    stop: str | Iterable[str] | None
    stop_token_ids: Iterable[int] | None
    ignore_eos: bool | None
    include_stop_str_in_output: bool | None
    skip_special_tokens: bool | None
    presence_penalty: float | None
    frequency_penalty: float | None
    repetition_penalty: float | None
    logit_bias: Mapping[int, float] | Mapping[str, float] | None
    """By token id, which may be text as in JSON."""
    allowed_token_ids: Iterable[int] | None
    bad_words: Iterable[str] | None
    bad_words_token_ids: Iterable[Iterable[int]] | None
    logprobs: bool | int | None
    """How many candidates a position has; True is `top_logprobs`."""
    top_logprobs: int | None
    """Candidates a position where `logprobs` is True; by default none beside the token itself."""
    prompt_logprobs: int | None
    structured_output: StructuredOutput | None
    reasoning: Reasoning | None


# Parameters of OpenAI's chat completions that are refused, with what to do instead.
_REFUSED = {
    "audio": "models here answer with text only",
    "extra_body": "give its entries as keywords",
    "function_call": "give tool_choice",
    "functions": "give tools",
    "metadata": "a request can be recognized by request_id alone",
    "modalities": "models here answer with text only",
    "model": "a server has one model, which model_info() names",
    "moderation": "there is none here",
    "parallel_tool_calls": "the model decides how many tools it calls at once",
    "prediction": "there are no predicted outputs here",
    "prompt_cache_key": "prefixes are cached by themselves; cache_salt keeps them apart",
    "prompt_cache_options": "prefixes are cached by themselves",
    "prompt_cache_retention": "prefixes are cached by themselves",
    "reasoning_effort": "give enable_thinking or thinking_budget",
    "safety_identifier": "nothing here reads it",
    "service_tier": "give priority; a lower one runs first",
    "store": "nothing is stored here",
    "stream": "call stream or stream_chat",
    "stream_options": "the last piece has the usage always",
    "user": "nothing here reads it",
    "verbosity": "say in a message how long the answer should be",
    "web_search_options": "give a tool that searches",
}


def with_keywords(
    params: AnySamplingParams, keywords: Mapping[str, Any], others: Iterable[str] = ()
) -> AnySamplingParams:
    """The parameters of a call with its keywords, checked.

    `others` are the names of the call's other options, for the error that an unknown one raises:
    TypeError as for any function, or InvalidRequestError with what to give instead.
    """
    given = _fields_of(keywords, others)
    for name in given:
        if _is_set(params, name):
            raise InvalidRequestError(
                f"sampling_params.{name}",
                f"{name} is given twice, as a keyword and in sampling_params; leave one out",
            )
    if not given:
        return params
    if isinstance(params, SamplingParams):
        return params.clone(**given)
    message = types_pb2.SamplingParams()
    if params is not None:
        message.CopyFrom(params)
    message.MergeFrom(_only(given))
    return message


def _fields_of(keywords: Mapping[str, Any], others: Iterable[str]) -> dict[str, Any]:
    """The fields of SamplingParams that keywords stand for."""
    known = {*_DEFAULTS, "max_completion_tokens", "top_logprobs"}
    if unknown := next((name for name in keywords if name not in known), None):
        raise _unknown_keyword(unknown, sorted(known.union(others)))
    given = {
        name: value for name, value in keywords.items() if value is not None or name == "max_tokens"
    }
    if (limit := given.pop("max_completion_tokens", None)) is not None:
        if "max_tokens" in given:
            raise InvalidRequestError(
                "sampling_params.max_tokens",
                "max_completion_tokens and max_tokens are the same; leave one out",
            )
        given["max_tokens"] = limit
    if "logit_bias" in given:
        given["logit_bias"] = _by_token_id(given["logit_bias"])
    _join_logprobs(given)
    return given


def _join_logprobs(given: dict[str, Any]) -> None:
    """Turns OpenAI's `logprobs`, a bool beside `top_logprobs`, into a number of candidates."""
    top = given.pop("top_logprobs", None)
    if isinstance(wanted := given.get("logprobs"), bool):
        given["logprobs"] = (top or 0) if wanted else None
    if wanted is not True and top:
        raise InvalidRequestError(
            "sampling_params.logprobs", f"top_logprobs={top} needs logprobs=True beside it"
        )


def _by_token_id(bias: Any) -> Any:
    """The mapping with whole numbers for keys that are text."""
    if not isinstance(bias, Mapping):
        return bias
    try:
        return {int(key) if isinstance(key, str) else key: value for key, value in bias.items()}
    except ValueError:
        raise InvalidRequestError(
            "sampling_params.logit_bias", f"logit_bias must have token ids as keys, got {[*bias]}"
        ) from None


def _unknown_keyword(name: str, known: list[str]) -> Exception:
    if name in _REFUSED:
        return InvalidRequestError(name, f"{name} is not supported: {_REFUSED[name]}")
    [*close] = get_close_matches(name, known, 1)
    advice = f"; did you mean {close[0]!r}?" if close else ""
    return TypeError(f"got an unexpected keyword argument {name!r}{advice}")


def _is_set(params: AnySamplingParams, name: str) -> bool:
    """Whether parameters say something of their own about a field."""
    if params is None:
        return False
    if isinstance(params, SamplingParams):
        return bool(getattr(params, name) != _DEFAULTS[name])
    set_fields = {descriptor.name for descriptor, _ in params.ListFields()}
    return name in set_fields or (
        name == "structured_output" and params.WhichOneof("structured_output") is not None
    )


def _only(given: Mapping[str, Any]) -> types_pb2.SamplingParams:
    """The message with these fields alone, each checked as SamplingParams checks it."""
    params = SamplingParams(**{"max_tokens": None, **given})
    output = params.structured_output
    names = {*given, output.kind if output is not None else ""}
    message = params.to_proto()
    for descriptor, _ in message.ListFields():
        if descriptor.name not in names:
            cast(Any, message).ClearField(descriptor.name)
    return message


_DEFAULTS = {each.name: each.default for each in sent_fields(SamplingParams)}
