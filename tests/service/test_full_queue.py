"""What a caller of both services sees of a full queue, on real sockets."""

import asyncio
import math
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from folovllm.errors import QueueFullError, from_rpc_error
from folovllm.v1 import tokenizer_service_pb2, types_pb2
from support.builders.sample_tokenizers import save_byte_tokenizer
from support.fakes.engine_factory import make_engine
from support.processes.joined_services import JoinedServices
from tokenizer_service.text.tokenizer import Tokenizer


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[JoinedServices]:
    """Both, with room for two requests that wait, while the engine is held still."""
    tokenizer = Tokenizer.from_folder(save_byte_tokenizer(tmp_path))
    fingerprint = tokenizer.fingerprint
    llm_engine, runner = make_engine(vocab_size=256, tokenizer_fingerprint=fingerprint)
    service = JoinedServices(llm_engine, runner, tokenizer, max_num_waiting=2)
    await service.start()
    runner.hold()
    yield service
    await service.stop()


def generate(service: JoinedServices, name: str) -> "asyncio.Task[int]":
    """Asks for an answer; returns how many messages it has."""
    params = types_pb2.SamplingParams(temperature=0.0, max_tokens=3, ignore_eos=True)
    request = tokenizer_service_pb2.GenerateRequest(
        request_id=name, text="abc", sampling_params=params
    )

    async def read() -> int:
        return len([message async for message in service.stub.Generate(request)])

    return asyncio.create_task(read())


async def test_a_refusal_says_when_to_return_and_keeps_its_word(service: JoinedServices) -> None:
    first = [generate(service, name) for name in "ab"]
    while service.engine.num_requests < 2:
        await asyncio.sleep(0)
    delays = []
    for name in "cd":
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await generate(service, name)
        error = from_rpc_error(refused.value)
        assert isinstance(error, QueueFullError) and "with the same request_id" in str(error)
        metadata = dict(refused.value.trailing_metadata() or ())
        # What gRPC itself retries by is the same.
        assert metadata["grpc-retry-pushback-ms"] == str(math.ceil(error.retry_after * 1e3))
        delays.append(error.retry_after)
    assert 0 < delays[0] < delays[1] <= 10  # one after the other
    service.runner.release()
    await asyncio.gather(*first)
    assert await generate(service, "c") > 0
