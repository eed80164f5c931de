"""Sends cases to services, many at a time, and judges each answer."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from google.rpc import code_pb2, status_pb2

from chaos.checks.statuses import ALLOWED, is_allowed, status_of
from folovllm.v1 import engine_service_pb2
from fuzz.cases import Case, case

_TIMEOUT = 5.0
_PATIENCE = 30.0
"""Seconds after which a call hangs, whatever its deadline."""


class Sender:
    """Sends the cases of a seed over one connection to each service."""

    def __init__(self, channels: Mapping[str, Any], seed: int, timeout: float = _TIMEOUT) -> None:
        """`channels` are grpc.aio's, by target; `timeout` is every call's, in seconds."""
        self.ended: Counter[str] = Counter()
        self.complaints: list[tuple[int, str]] = []
        """The numbers of cases with answers that must not be, and what was wrong."""
        self._channels, self._seed, self._timeout = channels, seed, timeout

    async def send_all(self, numbers: Iterator[int], width: int) -> None:
        """Sends the cases of these numbers, so many at a time."""

        async def caller() -> None:
            for number in numbers:
                await self.send(number)

        async with asyncio.TaskGroup() as group:
            for _ in range(width):
                group.create_task(caller())

    async def send(self, number: int) -> str:
        """Sends one, and returns the name of its status."""
        sent = case(self._seed, number)
        try:
            async with asyncio.timeout(_PATIENCE):
                code, problems = await self._call(sent)
        except TimeoutError:
            code, problems = "none", ["it hangs"]
        self.ended[code] += 1
        self.complaints += [(number, f"{problem}: {sent}") for problem in problems]
        return code

    async def _call(self, sent: Case) -> tuple[str, list[str]]:
        call = self._start(sent)
        answers: list[bytes] = []
        try:
            if not sent.method.server_streaming:
                answers.append(await call)
            else:
                async for answer in call:
                    answers.append(answer)
                    if sent.cancels:
                        break
        except grpc.aio.AioRpcError as error:
            name = status_of(error)
            wrong = [] if is_allowed(error) else [f"{name} {error.details()!r}"]
            return name, [*wrong, *_problems(sent, answers)]
        finally:
            call.cancel()
        return "OK", _problems(sent, answers)

    def _start(self, sent: Case) -> Any:
        method, channel = sent.method, self._channels[sent.target]
        path = f"/{method.containing_service.full_name}/{method.name}"
        if method.client_streaming:
            return channel.stream_stream(path)(_each(sent.messages), timeout=self._timeout)
        kind = channel.unary_stream if method.server_streaming else channel.unary_unary
        return kind(path)(sent.messages[0], timeout=self._timeout)


async def _each(messages: tuple[bytes, ...]) -> Any:
    for message in messages:
        yield message


def _problems(sent: Case, answers: list[bytes]) -> list[str]:
    """What is wrong with answers, whatever they answer."""
    read = GetMessageClass(sent.method.output_type).FromString
    found = []
    for data in answers:
        try:
            answer = read(data)
        except DecodeError:
            found.append("an answer is no message of its type")
            continue
        if isinstance(answer, engine_service_pb2.SessionEvents):
            for failure in answer.failures:
                status = status_pb2.Status.FromString(failure.status)
                name = code_pb2.Code.Name(status.code)
                if name not in ALLOWED:
                    found.append(f"{name} {status.message!r} in a session")
    return found
