"""Token ids that an engine sends in columns reach the streams that they belong to."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from folovllm.errors import UnavailableError
from folovllm.liveness import LivenessConfig
from folovllm.v1 import engine_service_pb2, types_pb2
from support.builders.engine_pools import request
from support.fakes.stream_home import make_part
from tokenizer_service.engines.part import TOKENS_PER_CONTINUATION, Part
from tokenizer_service.engines.session import EngineSession
from tokenizer_service.engines.stream import EngineStream

Events = engine_service_pb2.SessionEvents
Columns = engine_service_pb2.OutputColumns
Command = engine_service_pb2.SessionCommand
Piece = types_pb2.CompletionOutput


class ScriptedCall:
    """A call of Session in which the test says what the engine sends."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[Events] = asyncio.Queue()
        self.commands: asyncio.Queue[Command] = asyncio.Queue()
        self.events.put_nowait(Events())

    def Session(self) -> "ScriptedCall":
        return self

    async def __aiter__(self) -> AsyncIterator[Events]:
        while True:
            yield await self.events.get()

    async def write(self, command: Command) -> None:
        self.commands.put_nowait(command)

    def cancel(self) -> None:
        pass

    def send(self, columns: Columns | None = None, *outputs: Piece) -> None:
        self.events.put_nowait(Events(columns=columns, outputs=outputs))


@pytest.fixture
def call() -> ScriptedCall:
    return ScriptedCall()


@pytest.fixture
async def session(call: Any) -> AsyncIterator[EngineSession]:
    session = await EngineSession.open(call, "there:1", LivenessConfig(), on_change=lambda: None)
    yield session
    await session.close()


async def begin(
    session: EngineSession, call: ScriptedCall, name: str = "r", n: int = 1
) -> tuple[Part, int]:
    """A stream's only part, and the handle that the engine is told."""
    part = make_part(name, n)
    session.generate(part, request(name), name)
    return part, (await call.commands.get()).handle


def final(name: str, index: int = 0, *token_ids: int) -> Piece:
    reason = types_pb2.FINISH_REASON_LENGTH
    return Piece(request_id=name, index=index, token_ids=token_ids, finish_reason=reason)


async def ids_by_index(stream: EngineStream) -> dict[int, list[int]]:
    ids: dict[int, list[int]] = {}
    async for piece in stream:
        assert piece.request_id == stream.name
        ids.setdefault(piece.index, []).extend(piece.token_ids)
    return ids


async def test_rows_reach_their_continuations_in_order(
    session: EngineSession, call: ScriptedCall
) -> None:
    (one, first), (two, second) = await begin(session, call, "1", 3), await begin(session, call)
    assert first > 0 and second >= first + 3
    call.send(None, Piece(request_id="1", token_ids=[1]))
    call.send(Columns(handles=[second, first + 2, first], token_ids=[5, 6, 7]))
    rows = Columns(handles=[first, second], num_token_ids=[2, 3], token_ids=[8, 9, 10, 11, 12])
    # Whatever a message has in columns comes before its outputs.
    call.send(rows, final("r", 0, 13), final("1", 0, 14), final("1", 2), final("1", 1))
    assert await ids_by_index(one.stream) == {0: [1, 7, 8, 9, 14], 1: [], 2: [6]}
    assert await ids_by_index(two.stream) == {0: [5, 10, 11, 12, 13]}
    assert session.own_tokens == 0


async def test_the_first_row_says_that_the_request_runs(
    session: EngineSession, call: ScriptedCall
) -> None:
    part, handle = await begin(session, call)
    assert session.own_tokens == 10 + TOKENS_PER_CONTINUATION and not part.scheduled
    call.send(Columns(handles=[handle], token_ids=[5]))
    assert (await anext(part.stream)).token_ids == [5]
    assert session.own_tokens == TOKENS_PER_CONTINUATION and part.scheduled


async def test_rows_of_what_was_cancelled_reach_no_one(
    session: EngineSession, call: ScriptedCall
) -> None:
    part, before = await begin(session, call)
    session.cancel(part)
    assert (await call.commands.get()).cancel == "r"
    again, after = await begin(session, call)
    assert after > before
    call.send(Columns(handles=[before, after], token_ids=[1, 2]))
    call.send(Columns(handles=[before], token_ids=[3]), final(again.wire_name))
    assert await ids_by_index(again.stream) == {0: [2]}


@pytest.mark.parametrize(
    "columns",
    [
        Columns(handles=[1, 1], token_ids=[5]),
        Columns(handles=[1], token_ids=[5, 6]),
        Columns(handles=[1], num_token_ids=[2], token_ids=[5]),
        Columns(handles=[1], num_token_ids=[1], token_ids=[5, 6]),
        Columns(handles=[1], num_token_ids=[1, 1], token_ids=[5, 6]),
        Columns(num_token_ids=[2**32 - 1]),
    ],
)
async def test_columns_that_do_not_belong_together_end_the_session(
    session: EngineSession, call: ScriptedCall, columns: Columns
) -> None:
    part, _ = await begin(session, call)
    call.send(columns)
    with pytest.raises(UnavailableError, match="engine there:1: its session ended"):
        await anext(part.stream)
