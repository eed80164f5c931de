"""Prompts and parameters to messages, for both clients.

A value that the contract cannot carry raises InvalidRequestError here, before anything is sent.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Unpack

from google.protobuf.message import Message

from folovllm.errors import InvalidRequestError, errors_at
from folovllm.outputs import RequestOutput
from folovllm.sampling_params import SamplingParams
from folovllm.serving.address import DEFAULT_PORT
from folovllm.v1 import tokenizer_service_pb2, types_pb2
from folovllm_client.api.prompt_parts import Prompt, PromptParts
from folovllm_client.api.sampling_keywords import (
    AnySamplingParams,
    SamplingKeywords,
    with_keywords,
)

__all__ = [
    "DEFAULT_ADDRESS",
    "MAX_CONCURRENCY",
    "AnySamplingParams",
    "Prompt",
    "RequestOptions",
    "SharedOptions",
    "empty_output",
    "field_errors",
    "generate_request",
    "many_requests",
    "partial_sampling_params",
    "set_fields",
    "set_sampling_params",
    "set_text_or_ids",
]

DEFAULT_ADDRESS = f"localhost:{DEFAULT_PORT}"
MAX_CONCURRENCY = 128
"""Default limit on the requests of generate_many that run at a time."""


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
    return_prompt_token_ids: bool = False,
    **options: Unpack[RequestOptions],
) -> tokenizer_service_pb2.GenerateRequest:
    """The message that asks for continuations, and perhaps for the token ids of a text."""
    if isinstance(prompt, list | tuple) and any(isinstance(each, _PROMPTS) for each in prompt[:1]):
        raise InvalidRequestError("prompt", "one prompt a call; generate_many takes several")
    parts = PromptParts.read(prompt)
    wanted = return_prompt_token_ids and parts.token_ids is None
    request = tokenizer_service_pb2.GenerateRequest(return_prompt_token_ids=wanted)
    _set_prompt(request, parts)
    keywords = {name: value for name, value in options.items() if name not in _OWN}
    set_sampling_params(request, with_keywords(sampling_params, keywords, _OWN))
    own = {name: value for name, value in options.items() if name in _OWN}
    set_fields(request, {"cache_salt": parts.cache_salt, **own})
    return request


def many_requests(
    prompts: Iterable[Prompt],
    sampling_params: AnySamplingParams,
    max_concurrency: int,
    **options: Unpack[SharedOptions],
) -> list[tuple[Prompt, tokenizer_service_pb2.GenerateRequest]]:
    """Each prompt with its message; an invalid one is refused before any is sent."""
    if isinstance(max_concurrency, bool) or not isinstance(max_concurrency, int):
        raise InvalidRequestError(
            "max_concurrency", f"max_concurrency must be a whole number, got {max_concurrency!r}"
        )
    if max_concurrency < 1:
        raise InvalidRequestError(
            "max_concurrency", f"max_concurrency must be over 0, got {max_concurrency}"
        )
    if isinstance(prompts, str | Mapping) or not isinstance(prompts, Iterable):
        raise InvalidRequestError("prompts", f"prompts must be a list of prompts, got {prompts!r}")
    requests = []
    for index, prompt in enumerate(prompts):
        with errors_at(f"prompts[{index}]"):
            request = generate_request(
                prompt, sampling_params, return_prompt_token_ids=True, **options
            )
        requests.append((prompt, request))
    return requests


def set_text_or_ids(
    message: types_pb2.ScoreRequest | types_pb2.ScoreRequest.Continuation, given: Prompt
) -> None:
    """Sets what a message scores."""
    _set_prompt(message, PromptParts.read(given))


def _set_prompt(
    message: tokenizer_service_pb2.GenerateRequest
    | types_pb2.ScoreRequest
    | types_pb2.ScoreRequest.Continuation,
    parts: PromptParts,
) -> None:
    if parts.token_ids is None:
        set_fields(message, {"text": parts.text})
        return
    with field_errors("token_ids"):
        message.token_ids.CopyFrom(types_pb2.TokenIds(ids=parts.token_ids))


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
    if params is None:
        return
    if not isinstance(params, SamplingParams | types_pb2.SamplingParams):
        raise InvalidRequestError(
            "sampling_params",
            f"sampling_params must be SamplingParams, got {params!r}; keywords are parameters too",
        )
    with field_errors("sampling_params"):
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
    parts = PromptParts.read(prompt)
    return RequestOutput(prompt=parts.text, prompt_token_ids=parts.token_ids or [])


@contextmanager
def field_errors(field: str) -> Iterator[None]:
    """Names the field if the contract cannot carry its value."""
    try:
        yield
    except InvalidRequestError:
        raise
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(field, f"{field} cannot be sent: {error}") from None


_OWN = ("request_id", "priority", "cache_salt")
_PROMPTS = (str, list, tuple, Mapping)  # what a prompt may be besides a sequence of ids
