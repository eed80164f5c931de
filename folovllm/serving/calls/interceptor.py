"""CallInterceptor: what happens around every call of our services.

Messages are checked against the contract's bounds before anything else sees them. Errors become
statuses by the table in folovllm.errors, calls are counted for draining, and each call leaves one
line in the log. A call that carries many requests counts and checks each of them itself. Calls of
other services (health, reflection) pass. Where many arrive at once, they begin in turns, but for
those about health. Malformed messages are the caller's error in all of them.
"""

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, nullcontext
from typing import Any, TypeAlias

import grpc
import structlog
from google.protobuf.message import DecodeError

from folovllm.bounds.check_bounds import check_bounds
from folovllm.errors import InvalidRequestError, status_code, trailing_metadata
from folovllm.serving.active_calls import (
    ActiveCalls,
    CurrentCall,
    current_call,
    is_counted,
    is_like_a_stream,
)
from folovllm.serving.call_log import as_folov_error, log_end
from folovllm.serving.calls.arrivals import Arrivals
from folovllm.serving.turns import LONG_BYTES, Turns

_PREFIX = "/folovllm."
# Whoever asks for health waits behind no other call.
_HEALTH = "/grpc.health."

# By the attribute of a handler that holds the method of that kind.
_MAKE_HANDLER: dict[str, Callable[..., "grpc.RpcMethodHandler[Any, Any]"]] = {
    "unary_unary": grpc.unary_unary_rpc_method_handler,
    "unary_stream": grpc.unary_stream_rpc_method_handler,
    "stream_unary": grpc.stream_unary_rpc_method_handler,
    "stream_stream": grpc.stream_stream_rpc_method_handler,
}

# None if the method is unknown.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
Context = grpc.aio.ServicerContext[Any, Any]
# What happens around a call, given its context.
Around = Callable[[Context], AbstractAsyncContextManager[None]]


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the calls of our services, whether they stream or not."""

    def __init__(self, active_calls: ActiveCalls) -> None:
        self._active_calls = active_calls
        self._turns = Turns()
        self._arrivals = Arrivals()
        # By method, each beside the handler that it wraps, so that a call does not make its own.
        self._wrapped: dict[str, tuple[Handler, Handler]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Wraps the method's handler, when it is the call's turn to begin."""
        if not handler_call_details.method.startswith(_HEALTH):
            await self._arrivals.turn()
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        method = handler_call_details.method
        wraps, wrapped = self._wrapped.get(method, (None, None))
        if wraps is not handler:
            wrapped = self._wrap(method, handler)
            self._wrapped[method] = handler, wrapped
        return wrapped

    def _wrap(self, method: str, handler: "grpc.RpcMethodHandler[Any, Any]") -> Handler:
        kind = next(kind for kind in _MAKE_HANDLER if getattr(handler, kind) is not None)
        behavior = getattr(handler, kind)
        around: Around = _refusing
        generates = inspect.isasyncgenfunction(behavior)
        checks = False
        if method.startswith(_PREFIX):
            around = self._around(method, behavior, streams=kind != "unary_unary")
            generates = handler.response_streaming
            checks = handler.request_deserializer is not None and is_counted(behavior)
        read: Any = _reader(handler.request_deserializer, checks=checks)
        if not handler.request_streaming:
            # Reads within the call, as a stream does: outside, gRPC makes any error UNKNOWN.
            behavior, read = _reading(behavior, read), None
        wrap = _generator if generates else _coroutine
        wrapped = wrap(behavior, around, self._turns)
        return _MAKE_HANDLER[kind](wrapped, read, handler.response_serializer)

    def _around(self, method: str, behavior: Any, streams: bool) -> Around:
        counted = is_counted(behavior)
        streams = streams or is_like_a_stream(behavior)

        @asynccontextmanager
        async def around(context: Context) -> AsyncIterator[None]:
            async with _observed(method, context):
                with self._active_calls.entered(stream=streams) if counted else nullcontext():
                    yield

        return around


def _coroutine(behavior: Any, around: Around, turns: Turns) -> Any:
    async def coroutine(request: Any, context: Context) -> Any:
        async with around(context):
            if _is_long(request):
                await turns.take()
            return await behavior(request, context)

    return coroutine


def _generator(behavior: Any, around: Around, turns: Turns) -> Any:
    async def generator(request: Any, context: Context) -> AsyncIterator[Any]:
        async with around(context):
            if _is_long(request):
                await turns.take()
            # Closed as soon as the call ends, not when memory is collected.
            async with aclosing(behavior(request, context)) as responses:
                async for response in responses:
                    yield response

    return generator


def _is_long(request: Any) -> bool:
    """Whether a message takes a turn to be read: two million entries take a tenth of a second."""
    return isinstance(request, bytes) and len(request) > LONG_BYTES


def _reading(behavior: Any, read: Callable[[bytes], Any]) -> Any:
    return lambda data, context: behavior(read(data), context)


def _reader(deserialize: Callable[[bytes], Any] | None, *, checks: bool) -> Callable[[bytes], Any]:
    """Reads a message and may check it.

    Raises InvalidRequestError for malformed bytes, and for a message out of the contract's bounds.
    """

    def read(data: bytes) -> Any:
        try:
            message: Any = data if deserialize is None else deserialize(data)
        except DecodeError:
            raise InvalidRequestError("", "the message is not valid protobuf of its type") from None
        if not checks:
            return message
        try:
            check_bounds(message)
        except InvalidRequestError as error:
            # While the caller is told, tracebacks would hold the message: up to 200 MB.
            refused = InvalidRequestError(error.field, str(error))
            del message
        else:
            return message
        raise refused

    return read


@asynccontextmanager
async def _refusing(context: Context) -> AsyncIterator[None]:
    """For calls of other services, which answer their own errors."""
    try:
        yield
    except InvalidRequestError as error:
        await context.abort(status_code(error), str(error))


@asynccontextmanager
async def _observed(method: str, context: Context) -> AsyncIterator[None]:
    """Logs one call and turns what it raises into a status.

    The context is used only at the beginning: when a cancelled call has ended, gRPC has freed what
    it points to, and using it would crash the process.
    """
    structlog.contextvars.clear_contextvars()
    peer, time_remaining = context.peer(), context.time_remaining()
    started, now = time.monotonic(), asyncio.get_running_loop().time()
    deadline = None if time_remaining is None else now + time_remaining
    current_call.set(CurrentCall(peer, deadline))
    code = grpc.StatusCode.OK
    try:
        yield
    except (asyncio.CancelledError, GeneratorExit):
        expired = time_remaining is not None and time.monotonic() - started >= time_remaining
        code = grpc.StatusCode.DEADLINE_EXCEEDED if expired else grpc.StatusCode.CANCELLED
        raise
    except Exception as raised:
        error = as_folov_error(raised, method)
        code = status_code(error)
        await context.abort(code, str(error), trailing_metadata(error))
    finally:
        log_end(method, code, started, peer=peer)
