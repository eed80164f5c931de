"""Prompts and parameters to messages, for both clients.

A value that the contract cannot carry raises InvalidRequestError here, before anything is sent.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypedDict

from google.protobuf.message import Message

from folovllm.errors import InvalidRequestError
from folovllm.outputs import RequestOutput
from folovllm.sampling_params import SamplingParams
from folovllm.serving.address import DEFAULT_PORT
from folovllm.v1 import tokenizer_service_pb2, types_pb2
from folovllm_client.api.sampling_keywords import (
    AnySamplingParams,
    SamplingKeywords,
    with_keywords,
)

__all__ = [
    "DEFAULT_ADDRESS",
    "AnySamplingParams",
    "Prompt",
    "RequestOptions",
    "SharedOptions",
    "empty_output",
    "field_errors",
    "generate_request",
    "partial_sampling_params",
    "set_fields",
    "set_sampling_params",
    "set_text_or_ids",
    "split_prompt",
]

DEFAULT_ADDRESS = f"localhost:{DEFAULT_PORT}"

Prompt = str | Sequence[int] | Mapping[str, object]
"""A text, token ids, {"prompt": text} or {"prompt_token_ids": ids}."""


def split_prompt(prompt: Prompt) -> tuple[str | None, list[int] | None]:
    """The text of a prompt or its token ids; the other one is None."""
    if isinstance(prompt, Mapping):
        prompt = _from_dict(prompt)
    if isinstance(prompt, str):
        return prompt, None
    if not isinstance(prompt, Iterable) or isinstance(prompt, bytes):
        raise InvalidRequestError(
            "prompt",
            'a prompt is a text, a list of token ids, {"prompt": text} or '
            f'{{"prompt_token_ids": ids}}, not {prompt!r}',
        )
    ids = list(prompt)
    if ids and isinstance(ids[0], str | list | tuple | Mapping):
        raise InvalidRequestError(
            "prompt", "one prompt a call; generate_many takes a list of prompts"
        )
    return None, ids


def _from_dict(prompt: Mapping[str, object]) -> Any:
    """The prompt in a dict. Raises InvalidRequestError for a key that would not be read."""
    for key in prompt:
        if key not in ("prompt", "prompt_token_ids"):
            raise InvalidRequestError("prompt", f"a prompt has no {key}, only one of prompt and "
            "prompt_token_ids")
    ids = prompt.get("prompt_token_ids")
    return prompt.get("prompt") if ids is None else ids


class SharedOptions(SamplingKeywords, total=False):
    """The options that several requests can have in common, besides their sampling parameters."""

    priority: int
    """Lower runs first; by default 0."""
    cache_salt: str
    """Prefix-cache blocks are shared only among requests of equal salt."""


class RequestOptions(SharedOptions, total=False):
    """The options of one request, besides its prompt and its sampling parameters."""

    request_id: str
    """Unique among the running requests; by default the server chooses one."""


def generate_request(
    prompt: Prompt,
    sampling_params: AnySamplingParams = None,
    *,
    request_id: str = "",
    priority: int = 0,
    cache_salt: str = "",
    return_prompt_token_ids: bool = False,
) -> tokenizer_service_pb2.GenerateRequest:
    """The message that asks for continuations."""
    text, ids = split_prompt(prompt)
    request = tokenizer_service_pb2.GenerateRequest(return_prompt_token_ids=return_prompt_token_ids)
    with field_errors("token_ids"):
        if ids is not None:
            request.token_ids.CopyFrom(types_pb2.TokenIds(ids=ids))
    set_sampling_params(request, sampling_params)
    fields = {"request_id": request_id, "priority": priority, "cache_salt": cache_salt}
    set_fields(request, {"text": text, **fields})
    return request


def set_text_or_ids(
    message: types_pb2.ScoreRequest | types_pb2.ScoreRequest.Continuation, given: Prompt
) -> None:
    """Sets what a message scores."""
    text, ids = split_prompt(given)
    if text is not None:
        message.text = text
    else:
        message.token_ids.CopyFrom(types_pb2.TokenIds(ids=ids or ()))


def partial_sampling_params(given: Mapping[str, object]) -> types_pb2.SamplingParams:
    """The message with only the `given` fields set; None and () leave a field to its default."""
    message = types_pb2.SamplingParams()
    set_fields(message, given, within="sampling_params.")
    return message


def set_sampling_params(
    request: tokenizer_service_pb2.GenerateRequest | tokenizer_service_pb2.ChatRequest,
    params: AnySamplingParams,
) -> None:
    """Copies parameters to a request."""
    with field_errors("sampling_params"):
        if params is not None:
            message = params.to_proto() if isinstance(params, SamplingParams) else params
            request.sampling_params.CopyFrom(message)


def set_fields(message: Message, given: Mapping[str, object], within: str = "") -> None:
    """Sets the fields of a message; None and () leave a field to its default."""
    for name, value in given.items():
        with field_errors(f"{within}{name}"):
            if isinstance(value, list | tuple):
                getattr(message, name).extend(value)
            elif value is not None:
                setattr(message, name, value)


def empty_output(prompt: Prompt) -> RequestOutput:
    """The RequestOutput that the pieces of a prompt's answer are added to."""
    text, ids = split_prompt(prompt)
    return RequestOutput(prompt=text, prompt_token_ids=ids or [])


@contextmanager
def field_errors(field: str) -> Iterator[None]:
    """Names the field if the contract cannot carry its value."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(field, f"{field} cannot be sent: {error}") from error
