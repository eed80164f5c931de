"""What a failed call means: errors of gRPC to those of `folovllm.errors`.

Our servers send details with every error. One without them comes from gRPC itself, or from a server
that is not ours.
"""

import grpc

from folovllm.errors import (
    DETAILS_KEY,
    ConfigError,
    ConnectionLostError,
    DeadlineError,
    FolovError,
    UnavailableError,
    UnknownHostError,
    UnreachableError,
    WrongServiceError,
    from_rpc_error,
)
from folovllm.serving.address import DEFAULT_PORT

# How gRPC begins, or says within, what it reports of a connection.
_NO_CONNECTION = "failed to connect"
_NO_HOST = ("errors resolving", "DNS resolution failed")
_NO_HTTP2 = "Failed parsing HTTP/2"
_NO_TARGET = "the target uri is not valid"


def to_error(error: grpc.RpcError, address: str, deadline: float | None) -> FolovError:
    """The error behind a failed call to `address`, which had `deadline` seconds."""
    translated = from_rpc_error(error)
    if isinstance(translated, DeadlineError) and deadline is not None:
        return DeadlineError(f"no complete answer within {deadline:g} s")
    if _has_details(error):
        return translated
    message = str(translated)
    reason = message.rpartition(": ")[2].rstrip("]")
    if _NO_TARGET in message:
        return ConfigError(f"{address!r} is no address that gRPC can use")
    if not isinstance(translated, UnavailableError):
        return translated
    if message.startswith(_NO_HOST):
        return UnknownHostError(f"the host of {address} cannot be found ({reason})")
    if _NO_HTTP2 in message:
        return WrongServiceError(f"what answers at {address} does not speak gRPC; {_WHOM_TO_ASK}")
    if message.startswith(_NO_CONNECTION):
        return UnreachableError(f"nothing answers at {address} ({reason})")
    return ConnectionLostError(f"lost the connection to {address} ({reason})")


def is_unknown_method(error: BaseException) -> bool:
    """Whether the server does not have the method at all."""
    return (
        isinstance(error, grpc.aio.AioRpcError | grpc.Call)
        and error.code() is grpc.StatusCode.UNIMPLEMENTED
        and not _has_details(error)
    )


def wrong_service(address: str, *, is_engine: bool) -> WrongServiceError:
    """The error where the tokenizer service was to be called, and another server answers."""
    found = "the engine service, which takes token ids" if is_engine else "no FolovLLM service"
    return WrongServiceError(f"at {address} is {found}; {_WHOM_TO_ASK}")


def _has_details(error: grpc.RpcError) -> bool:
    return isinstance(error, grpc.aio.AioRpcError | grpc.Call) and any(
        key == DETAILS_KEY for key, _ in error.trailing_metadata() or ()
    )


_WHOM_TO_ASK = f"clients ask the tokenizer service, by default on port {DEFAULT_PORT}"
