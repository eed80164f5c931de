"""What can go wrong, and the gRPC status for it.

One table maps both ways: servers turn these into statuses, clients turn statuses into these.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

DETAILS_KEY = "grpc-status-details-bin"

M = TypeVar("M", bound=Message)


class FolovError(Exception):
    """Root of all errors that this project raises on purpose."""


class InvalidRequestError(FolovError, ValueError):
    """The request can never be served.

    `field` is the path of the offending field in the contract, such as `sampling_params.top_p`.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field

    def within(self, path: str) -> "InvalidRequestError":
        """The same error about SamplingParams, or other fields, at `path` of the contract."""
        name = self.field.removeprefix("sampling_params").removeprefix(".")
        return InvalidRequestError(f"{path}.{name}" if name else path, str(self))


@contextmanager
def errors_within(path: str) -> Iterator[None]:
    """Puts the fields of InvalidRequestErrors below `path`; see InvalidRequestError.within."""
    try:
        yield
    except InvalidRequestError as error:
        raise error.within(path) from None


@contextmanager
def errors_named_for(fields: Mapping[str, str]) -> Iterator[None]:
    """Renames the fields of InvalidRequestErrors to those that the caller gave."""
    try:
        yield
    except InvalidRequestError as error:
        raise InvalidRequestError(fields.get(error.field, error.field), str(error)) from None


@contextmanager
def errors_at(place: str) -> Iterator[None]:
    """Begins the message of a FolovError with the place, such as `prompts[3]`, if there is one."""
    try:
        yield
    except FolovError as error:
        error.args = (f"{place}: {error}" if place else str(error),)
        raise


class NotFoundError(FolovError):
    """What the call names does not exist."""


class UnsupportedError(FolovError):
    """It is in the contract, but the model that is served cannot do it."""


class QueueFullError(FolovError):
    """No more can be served now.

    The request may return after `retry_after` seconds. If it then has the same request_id, it goes
    before those that come for the first time.
    """

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineError(FolovError):
    """The caller's deadline passed."""


class CancelledRequestError(FolovError):
    """The call was cancelled."""


class ClientClosedError(CancelledRequestError):
    """The client was closed before the call or during it."""


class UnavailableError(FolovError):
    """Nothing can serve the request now; a retry may succeed."""


class ConnectionLostError(UnavailableError):
    """The connection broke during the call, which the server may have begun."""


class UnreachableError(UnavailableError):
    """Nothing answers at the address."""


class UnknownHostError(UnreachableError):
    """No host has the address's name."""


class EngineDeadError(UnavailableError):
    """The engine has failed, and with it every request.

    `scheduled` is False for a request of which no step had begun: it cannot be the cause.
    """

    def __init__(self, message: str, scheduled: bool = True) -> None:
        super().__init__(message)
        self.scheduled = scheduled


class RequestLostError(UnavailableError):
    """Several engines were lost while they computed this request: it is not to be retried."""


class ModelMismatchError(FolovError):
    """Tokenizer and engine do not serve the same model."""


class ServerError(FolovError):
    """The server failed; always a bug."""


class RequestFailedError(ServerError):
    """The server failed because of this one request, and would again: it is not to be retried."""

    def __init__(self, message: str, request_id: str = "") -> None:
        super().__init__(message)
        self.request_id = request_id


class ConfigError(FolovError):
    """A setting cannot be used; the message is one line that says what to do."""


class WrongServiceError(ConfigError):
    """Something else answers at the address than the service that was to be called."""


_CODES: dict[type[FolovError], grpc.StatusCode] = {
    InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    NotFoundError: grpc.StatusCode.NOT_FOUND,
    UnsupportedError: grpc.StatusCode.UNIMPLEMENTED,
    QueueFullError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeadlineError: grpc.StatusCode.DEADLINE_EXCEEDED,
    CancelledRequestError: grpc.StatusCode.CANCELLED,
    UnavailableError: grpc.StatusCode.UNAVAILABLE,
    ModelMismatchError: grpc.StatusCode.FAILED_PRECONDITION,
    ServerError: grpc.StatusCode.INTERNAL,
}
# google.rpc.ErrorInfo: what a status code alone does not tell of a failure.
_DOMAIN = "folovllm"
_REQUEST_FAILED = "REQUEST_FAILED"
_ENGINE_DEAD = "ENGINE_DEAD"
_REQUEST_LOST = "REQUEST_LOST"
# Tells clients of gRPC that retry by themselves when to; a negative number, not to (gRFC A6).
_PUSHBACK_KEY = "grpc-retry-pushback-ms"
_ERRORS = {code: error for error, code in _CODES.items()}


def status_code(error: FolovError) -> grpc.StatusCode:
    """The code for an error, by its nearest listed class."""
    listed = (_CODES[cls] for cls in type(error).__mro__ if cls in _CODES)
    return next(listed, grpc.StatusCode.INTERNAL)


def to_status(error: FolovError) -> status_pb2.Status:
    """The rich status of an error: code, message and google.rpc details."""
    status = status_pb2.Status(
        code=code_pb2.Code.Value(status_code(error).name), message=str(error)
    )
    if isinstance(error, InvalidRequestError):
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field, description=str(error)
        )
        status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    elif isinstance(error, QueueFullError):
        delay = Duration()
        delay.FromNanoseconds(round(error.retry_after * 1e9))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    elif isinstance(error, RequestFailedError):
        blamed = {"request_id": error.request_id}
        status.details.add().Pack(_error_info(_REQUEST_FAILED, blamed))
    elif isinstance(error, EngineDeadError):
        scheduled = {"scheduled": str(error.scheduled).lower()}
        status.details.add().Pack(_error_info(_ENGINE_DEAD, scheduled))
    elif isinstance(error, RequestLostError):
        status.details.add().Pack(_error_info(_REQUEST_LOST, {}))
    return status


def trailing_metadata(error: FolovError) -> tuple[tuple[str, str | bytes], ...]:
    """What accompanies the status of a call that ends with an error: its details."""
    details = (DETAILS_KEY, to_status(error).SerializeToString())
    if isinstance(error, RequestFailedError | RequestLostError):
        return details, (_PUSHBACK_KEY, "-1")
    if isinstance(error, QueueFullError):
        return details, (_PUSHBACK_KEY, str(math.ceil(error.retry_after * 1e3)))
    return (details,)


def from_status(
    code: grpc.StatusCode,
    message: str,
    trailing_metadata: Sequence[tuple[str, str | bytes]] = (),
) -> FolovError:
    """The error that a status stands for, with its details; the inverse of `to_status`."""
    rich = status_pb2.Status()
    for key, value in trailing_metadata:
        if key == DETAILS_KEY and isinstance(value, bytes):
            rich.ParseFromString(value)
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        violations = _unpack(rich, error_details_pb2.BadRequest()).field_violations
        return InvalidRequestError(violations[0].field if violations else "", message)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        info = _unpack(rich, error_details_pb2.RetryInfo())
        delay = info.retry_delay.ToNanoseconds() / 1e9 if info.HasField("retry_delay") else 1.0
        return QueueFullError(message, delay)
    info = _unpack(rich, error_details_pb2.ErrorInfo())
    if code is grpc.StatusCode.INTERNAL and info.reason == _REQUEST_FAILED:
        return RequestFailedError(message, info.metadata["request_id"])
    if code is grpc.StatusCode.UNAVAILABLE and info.reason == _ENGINE_DEAD:
        return EngineDeadError(message, info.metadata["scheduled"] == "true")
    if code is grpc.StatusCode.UNAVAILABLE and info.reason == _REQUEST_LOST:
        return RequestLostError(message)
    return _ERRORS.get(code, ServerError)(message)


def from_status_bytes(serialized: bytes) -> FolovError:
    """The error behind a serialized google.rpc.Status in a message."""
    status = status_pb2.Status.FromString(serialized)
    code = grpc.StatusCode[code_pb2.Code.Name(status.code)]
    return from_status(code, status.message, ((DETAILS_KEY, serialized),))


def from_rpc_error(error: grpc.RpcError) -> FolovError:
    """The error behind a failed call, of the synchronous or the asyncio stack."""
    if isinstance(error, grpc.aio.AioRpcError | grpc.Call):
        details = error.details() or error.code().name
        return from_status(error.code(), details, tuple(error.trailing_metadata() or ()))
    return UnavailableError(str(error))


def _error_info(reason: str, metadata: Mapping[str, str]) -> error_details_pb2.ErrorInfo:
    return error_details_pb2.ErrorInfo(reason=reason, domain=_DOMAIN, metadata=metadata)


def _unpack(status: status_pb2.Status, detail: M) -> M:
    """Fills `detail` from the status' details, if there is one of its type."""
    any(each.Unpack(detail) for each in status.details)
    return detail
