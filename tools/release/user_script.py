"""What a user's typed program does with an installed client; `make release` checks and runs it.

    python user_script.py TOKENIZER_SERVICE ENGINE_SERVICE

Asks for an answer in each way, then leaves streams unread, and waits until the engine has the KV
blocks of every one of them back.
"""

import asyncio
import sys
import time
from typing import assert_type

import grpc

from folovllm import (
    AsyncClient,
    ChatOutput,
    ChatResult,
    Client,
    CompletionOutput,
    RequestOutput,
    SamplingParams,
)
from folovllm.v1 import engine_service_pb2, engine_service_pb2_grpc

PROMPT = "Once upon a time"
SHORT = SamplingParams(temperature=0.0, max_tokens=8)
# The engine takes much longer for it than anyone here waits.
LONG = SamplingParams(n=16, max_tokens=1900, ignore_eos=True)
LONG_CHAT = SamplingParams(max_tokens=1900, ignore_eos=True)
ABANDONED = 6
"""How many streams are left unread."""
SECONDS = 20.0
"""How long the engine may take to notice that one was."""


class Engine:
    """The engine, asked for its load with the generated stubs."""

    def __init__(self, address: str) -> None:
        self._stub = engine_service_pb2_grpc.EngineServiceStub(grpc.insecure_channel(address))
        self._idle = self.load()

    def load(self) -> engine_service_pb2.GetLoadResponse:
        """Its load now, without what it counts since it started."""
        response = self._stub.GetLoad(engine_service_pb2.GetLoadRequest(), timeout=SECONDS)
        assert_type(response, engine_service_pb2.GetLoadResponse)
        response.ClearField("num_admitted")
        response.ClearField("num_generated_tokens")
        return response

    def check_busy(self) -> None:
        """Fails where it runs nothing."""
        load = self.load()
        if not load.num_requests or load.num_free_kv_blocks >= self._idle.num_free_kv_blocks:
            raise SystemExit(f"the engine holds no blocks of a stream that is being read:\n{load}")

    def wait_until_free(self) -> None:
        """Returns when it has all its blocks back; fails where that never comes."""
        give_up = time.monotonic() + SECONDS
        while (load := self.load()) != self._idle:
            if time.monotonic() > give_up:
                raise SystemExit(f"a stream was left, and the engine still works for it:\n{load}")
            time.sleep(0.02)


def ask(client: Client) -> None:
    """An answer in each way."""
    output = client.generate(PROMPT, SHORT)
    assert_type(output, RequestOutput)
    pieces = list(client.stream(PROMPT, SHORT))
    assert_type(pieces, list[CompletionOutput])
    if "".join(piece.text for piece in pieces) != output.outputs[0].text:
        raise SystemExit("a streamed text differs from the one that came complete")
    result = client.chat("What is 2 + 3?", sampling_params=SHORT)
    assert_type(result, ChatResult)


def leave(client: Client, engine: Engine) -> None:
    """Three streams that ordinary code does not read to their ends."""
    for piece in client.stream(PROMPT, LONG):
        assert_type(piece, CompletionOutput)
        engine.check_busy()
        break
    engine.wait_until_free()

    pieces = client.stream(PROMPT, LONG)
    next(pieces)
    engine.check_busy()
    del pieces
    engine.wait_until_free()

    for output in client.stream_chat("Tell me a story.", sampling_params=LONG_CHAT):
        assert_type(output, ChatOutput)
        engine.check_busy()
        break
    engine.wait_until_free()


async def leave_async(client: AsyncClient, engine: Engine) -> None:
    """The same from asyncio."""
    async for piece in client.stream(PROMPT, LONG):
        assert_type(piece, CompletionOutput)
        engine.check_busy()
        break
    await asyncio.to_thread(engine.wait_until_free)

    pieces = client.stream(PROMPT, LONG)
    await anext(pieces)
    engine.check_busy()
    del pieces
    await asyncio.to_thread(engine.wait_until_free)

    async for output in client.stream_chat("Tell me a story.", sampling_params=LONG_CHAT):
        assert_type(output, ChatOutput)
        engine.check_busy()
        break
    await asyncio.to_thread(engine.wait_until_free)


async def main_async(address: str, engine: Engine) -> None:
    """The part of `main` that needs an event loop."""
    async with AsyncClient(address, timeout=60) as client:
        output = await client.generate(PROMPT, SHORT)
        assert_type(output, RequestOutput)
        await leave_async(client, engine)


def main(address: str, engine_address: str) -> None:
    """Everything in turn."""
    with Client(address, timeout=60) as client:
        ask(client)
        engine = Engine(engine_address)
        leave(client, engine)
    asyncio.run(main_async(address, engine))


if __name__ == "__main__":
    main(*sys.argv[1:])
