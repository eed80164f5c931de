"""CallInterceptor: what happens around every call of our services.

Errors become statuses by the table in folovllm.errors, calls are counted for draining unless they
count themselves, and each call leaves one line in the log. Calls of other services (health,
reflection) pass untouched.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, aclosing, asynccontextmanager, nullcontext
from typing import Any, TypeAlias

import grpc
import structlog

from folovllm.errors import DETAILS_KEY, status_code, to_status
from folovllm.serving.active_calls import ActiveCalls, is_counted, is_like_a_stream
from folovllm.serving.call_log import as_folov_error, log_end

_PREFIX = "/folovllm."

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


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the calls of our services, whether they stream or not."""

    def __init__(self, active_calls: ActiveCalls) -> None:
        self._active_calls = active_calls

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Wraps the method's handler."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith(_PREFIX):
            return handler
        kind = next(kind for kind in _MAKE_HANDLER if getattr(handler, kind) is not None)
        wrap = self._stream if handler.response_streaming else self._unary
        return _MAKE_HANDLER[kind](
            wrap(method, getattr(handler, kind), streams=kind != "unary_unary"),
            handler.request_deserializer,
            handler.response_serializer,
        )

    def _unary(self, method: str, behavior: Any, streams: bool) -> Any:
        async def unary(request: Any, context: Context) -> Any:
            async with _observed(method, context):
                with self._counted(behavior, streams):
                    return await behavior(request, context)

        return unary

    def _stream(self, method: str, behavior: Any, streams: bool) -> Any:
        async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
            async with _observed(method, context):
                with self._counted(behavior, streams):
                    # Closed as soon as the call ends, not when memory is collected.
                    async with aclosing(behavior(request, context)) as responses:
                        async for response in responses:
                            yield response

        return stream

    def _counted(self, behavior: Any, streams: bool) -> AbstractContextManager[None]:
        if is_counted(behavior):
            return self._active_calls.entered(stream=streams or is_like_a_stream(behavior))
        return nullcontext()


@asynccontextmanager
async def _observed(method: str, context: Context) -> AsyncIterator[None]:
    """Logs one call and turns what it raises into a status.

    The context is used only at the beginning: when a cancelled call has ended, gRPC has freed what
    it points to, and using it would crash the process.
    """
    structlog.contextvars.clear_contextvars()
    peer, time_remaining = context.peer(), context.time_remaining()
    started = time.monotonic()
    code = grpc.StatusCode.OK
    try:
        yield
    except (asyncio.CancelledError, GeneratorExit):
        expired = time_remaining is not None and time.monotonic() - started >= time_remaining
        code = grpc.StatusCode.DEADLINE_EXCEEDED if expired else grpc.StatusCode.CANCELLED
        raise
    except Exception as raised:
        error = as_folov_error(raised, method)
        code, status = status_code(error), to_status(error)
        details = (DETAILS_KEY, status.SerializeToString())
        await context.abort(code, status.message, (details,))
    finally:
        log_end(method, code, started, peer=peer)
