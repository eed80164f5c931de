"""CallInterceptor: what happens around every call of our services.

Errors become statuses by the table in folovllm.errors, calls are counted for draining, and each
call leaves one line in the log. Calls of other services (health, reflection) pass untouched.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, NoReturn, TypeAlias

import grpc
import structlog

from folovllm.errors import DETAILS_KEY, FolovError, ServerError, status_code, to_status
from folovllm.serving.active_calls import ActiveCalls

_PREFIX = "/folovllm."

log: structlog.stdlib.BoundLogger = structlog.get_logger("call")

# None where the method is unknown.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
Context = grpc.aio.ServicerContext[Any, Any]


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the unary and the server-streaming calls of our services."""

    def __init__(self, active_calls: ActiveCalls) -> None:
        self._active_calls = active_calls

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Puts this interceptor's wrapper in front of the method's handler."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith(_PREFIX):
            return handler
        if handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(
                self._stream(method, handler.unary_stream),
                handler.request_deserializer,
                handler.response_serializer,
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(method, handler.unary_unary),
            handler.request_deserializer,
            handler.response_serializer,
        )

    def _unary(self, method: str, behavior: Any) -> Any:
        async def unary(request: Any, context: Context) -> Any:
            async with _observed(method, context):
                with self._active_calls.entered(stream=False):
                    return await behavior(request, context)

        return unary

    def _stream(self, method: str, behavior: Any) -> Any:
        async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
            async with _observed(method, context):
                with self._active_calls.entered(stream=True):
                    # Closed here and now when the call ends, not when memory is collected.
                    async with aclosing(behavior(request, context)) as responses:
                        async for response in responses:
                            yield response

        return stream


@asynccontextmanager
async def _observed(method: str, context: Context) -> AsyncIterator[None]:
    """Logs one call and turns what it raises into a status.

    The context is asked at the beginning only: after a cancelled call's end gRPC has freed what it
    points to, and asking it would end the process.
    """
    structlog.contextvars.clear_contextvars()
    peer, time_remaining = context.peer(), context.time_remaining()
    started = time.monotonic()
    code = grpc.StatusCode.OK
    try:
        yield
    except FolovError as error:
        code = status_code(error)
        await _abort(context, error)
    except (asyncio.CancelledError, GeneratorExit):
        expired = time_remaining is not None and time.monotonic() - started >= time_remaining
        code = grpc.StatusCode.DEADLINE_EXCEEDED if expired else grpc.StatusCode.CANCELLED
        raise
    except Exception:
        code = grpc.StatusCode.INTERNAL
        log.exception("call failed", method=method)
        await _abort(context, ServerError("internal error; the server's log says more"))
    finally:
        milliseconds = round((time.monotonic() - started) * 1e3, 1)
        emit = log.warning if code is grpc.StatusCode.INTERNAL else log.info
        emit("call", method=method, code=code.name, ms=milliseconds, peer=peer)


async def _abort(context: Context, error: FolovError) -> NoReturn:
    status = to_status(error)
    await context.abort(
        status_code(error),
        status.message,
        ((DETAILS_KEY, status.SerializeToString()),),
    )
