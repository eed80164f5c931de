"""Prompts and parameters to messages, and failed calls to errors, for both clients.

A value that the contract cannot carry raises InvalidRequestError here, before anything is sent.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypedDict

import grpc
from google.protobuf.message import Message

from folovllm.errors import (
    DETAILS_KEY,
    FolovError,
    InvalidRequestError,
    UnavailableError,
    from_rpc_error,
)
from folovllm.outputs import RequestOutput
from folovllm.sampling_params import SamplingParams
from folovllm.v1 import tokenizer_service_pb2, types_pb2

DEFAULT_ADDRESS = "localhost:50051"

AnySamplingParams = SamplingParams | types_pb2.SamplingParams | None
"""None, and the fields that a message leaves unset, are the model's own defaults."""

Prompt = str | Sequence[int] | Mapping[str, Sequence[int]]
"""A text, token ids, or {"prompt_token_ids": ids}."""

# The beginnings of gRPC's message if no connection could be made.
_NO_CONNECTION = ("failed to connect", "DNS resolution failed")


class UnreachableError(UnavailableError):
    """Nothing answers at the address."""


def split_prompt(prompt: Prompt) -> tuple[str | None, list[int] | None]:
    """The text of a prompt or its token ids; the other one is None."""
    if isinstance(prompt, str):
        return prompt, None
    ids = prompt.get("prompt_token_ids") if isinstance(prompt, Mapping) else prompt
    if not isinstance(ids, Iterable) or isinstance(ids, bytes):
        raise InvalidRequestError(
            "prompt", 'a prompt is a text, a list of token ids or {"prompt_token_ids": ids}'
        )
    return None, list(ids)


class RequestOptions(TypedDict, total=False):
    """The options of a request besides its prompt and its sampling parameters."""

    request_id: str
    """Unique among the running requests; by default the server chooses one."""
    priority: int
    """Lower runs first; by default 0."""
    cache_salt: str
    """Prefix-cache blocks are shared only among requests of equal salt."""


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
def call_errors(address: str) -> Iterator[None]:
    """Turns a failed call to the server at `address` into an error of `folovllm.errors`."""
    try:
        yield
    except grpc.RpcError as error:
        raise _to_error(error, address) from error


def _to_error(error: grpc.RpcError, address: str) -> FolovError:
    """Our servers send details with every error; without them UNAVAILABLE means the connection."""
    translated = from_rpc_error(error)
    has_details = isinstance(error, grpc.aio.AioRpcError | grpc.Call) and any(
        key == DETAILS_KEY for key, _ in error.trailing_metadata() or ()
    )
    if not isinstance(translated, UnavailableError) or has_details:
        return translated
    message = str(translated)
    reason = message.rpartition(": ")[2]
    if message.startswith(_NO_CONNECTION):
        return UnreachableError(f"nothing answers at {address} ({reason})")
    return UnavailableError(f"lost the connection to {address} ({reason})")


@contextmanager
def field_errors(field: str) -> Iterator[None]:
    """Names the field if the contract cannot carry its value."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(field, f"{field} cannot be sent: {error}") from error
