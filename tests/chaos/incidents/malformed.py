"""Bytes that are no message: INVALID_ARGUMENT on every method, and no traceback in any log."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from chaos.checks.verdicts import Report
from chaos.processes.service import Service
from chaos.processes.site import OWN_CONNECTION, running_site
from folovllm.v1 import engine_service_pb2, tokenizer_service_pb2

NOT_MESSAGES = (b"\xff", b"\x0a\x7fshort", b"\x08" + b"\xff" * 11, b"\x0b\x0b\x0b")
NOT_IN_FIELD_1 = b"\x0a\x02\xff\xfe"
"""Neither a message nor UTF-8 stands in field 1; an empty message passes it over."""
_TIMEOUT = 5.0


async def malformed_messages(report: Report) -> None:
    """Every method of both services."""
    async with running_site(("--device", "cpu"), fake=True, real_flags=()) as site:
        for service, descriptor in (
            (site.front_end, tokenizer_service_pb2.DESCRIPTOR.services_by_name["TokenizerService"]),
            (
                site.engines[0].service,
                engine_service_pb2.DESCRIPTOR.services_by_name["EngineService"],
            ),
        ):
            await _try_all(report, service, descriptor)


async def _try_all(report: Report, service: Service, descriptor: ServiceDescriptor) -> None:
    async with grpc.aio.insecure_channel(service.address, OWN_CONNECTION) as channel:
        for method in descriptor.methods:
            sent = [*NOT_MESSAGES, *([NOT_IN_FIELD_1] if method.input_type.fields else [])]
            codes = {await _send(channel, method, data) for data in sent}
            wrong = sorted(code.name for code in codes - {grpc.StatusCode.INVALID_ARGUMENT})
            found = [f"it answers {', '.join(wrong)}"] if wrong else []
            report.add(f"malformed: {descriptor.name}.{method.name}", found, quiet=True)
    count = service.log.count("Traceback")
    found = [f"{count} tracebacks"] if count else []
    report.add(f"malformed: log of {descriptor.name}", found)


async def _send(channel: Any, method: MethodDescriptor, data: bytes) -> grpc.StatusCode:
    """The status that these bytes get."""
    path = f"/{method.containing_service.full_name}/{method.name}"

    async def once() -> AsyncIterator[bytes]:
        yield data

    made: Any
    if method.client_streaming:
        made = channel.stream_stream(path)(once(), timeout=_TIMEOUT)
    elif method.server_streaming:
        made = channel.unary_stream(path)(data, timeout=_TIMEOUT)
    else:
        made = channel.unary_unary(path)(data, timeout=_TIMEOUT)
    try:
        if method.client_streaming or method.server_streaming:
            async for _ in made:
                pass
        else:
            await made
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK
