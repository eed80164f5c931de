"""The longest answers on real sockets, read by clients that take 4 MiB as gRPC's do by default."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from engine_service.core.outputs import ScheduledSequence
from folovllm.logprobs import Logprob, PositionLogprobs
from folovllm.model_files import DEMO_MODEL
from folovllm.outputs import RequestOutput
from folovllm.serving.channel import MAX_MESSAGE_BYTES
from folovllm.v1 import tokenizer_service_pb2 as messages
from folovllm.v1 import types_pb2
from folovllm_client.api.async_client import AsyncClient
from folovllm_client.api.calls.stream_readers import completion_reader
from support.fakes.engine_factory import make_engine
from support.fakes.model_runner import FakeModelRunner
from support.processes.joined_services import JoinedServices
from tokenizer_service.model import TextModel

MODEL = TextModel.from_folder(DEMO_MODEL)
NUM_TOKENS = 200_000
LARGE_ID = 2**28
PROMPT = [LARGE_ID + i for i in range(NUM_TOKENS)]
PARAMS = types_pb2.SamplingParams(max_tokens=1, prompt_logprobs=0, seed=1)
POSITION = PositionLogprobs(Logprob(LARGE_ID, -0.5, LARGE_ID))


class FastRunner(FakeModelRunner):
    """Has no KV and always says the same, so that a long prompt takes no time."""

    def _compute(
        self, index: int, scheduled: ScheduledSequence
    ) -> dict[tuple[int, int], int | None]:
        return {self._slot(scheduled, scheduled.num_tokens - 1): 1}

    def _prompt_logprobs(self, scheduled: ScheduledSequence) -> list[PositionLogprobs]:
        return [POSITION] * len(scheduled.prompt_logprob_positions)


class Service(JoinedServices):
    def __init__(self) -> None:
        runner = FastRunner(256, 2**30)
        llm_engine, _ = make_engine(
            runner=runner,
            vocab_size=2**30,
            num_blocks=2048,
            block_size=256,
            max_model_len=2**19,
            max_num_batched_tokens=2**17,
            tokenizer_fingerprint=MODEL.tokenizer.fingerprint,
            speculation="none",
        )
        template = MODEL.chat_template
        super().__init__(llm_engine, runner, MODEL.tokenizer, template, max_prompt_bytes=10**7)


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    service = Service()
    await service.start()
    yield service
    await service.stop()


async def collect(call: Any) -> list[Any]:
    """All messages, each of which a client of any language takes."""
    received = [message async for message in call]
    assert max(message.ByteSize() for message in received) < MAX_MESSAGE_BYTES // 8
    return received


def whole_info(received: list[Any]) -> types_pb2.RequestInfo:
    """The info of a stream, joined as gRPC joins messages."""
    info = types_pb2.RequestInfo()
    for message in received:
        info.MergeFrom(message.info)
    assert info.ByteSize() > MAX_MESSAGE_BYTES // 2
    return info


async def test_log_probabilities_of_the_longest_prompt_come_in_several_messages(
    service: Service,
) -> None:
    token_ids = types_pb2.TokenIds(ids=PROMPT)
    received = await collect(
        service.stub.Generate(
            messages.GenerateRequest(
                token_ids=token_ids, sampling_params=PARAMS, return_prompt_token_ids=True
            )
        )
    )
    info = whole_info(received)
    assert info.ByteSize() > MAX_MESSAGE_BYTES
    assert len(info.prompt_logprobs) == NUM_TOKENS == info.prompt_tokens
    assert list(info.prompt_token_ids) == PROMPT
    assert info.sampling_params.seed == 1 and received[0].info.sampling_params.seed == 1
    assert [bool(message.token_ids) for message in received[-2:]] == [False, True]


USER = messages.ChatMessage(role=messages.ROLE_USER, content="Hello")
SEVERAL = types_pb2.SamplingParams(max_tokens=6, prompt_logprobs=1, seed=1, n=2)


@pytest.fixture
def split(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes even short infos come in several messages."""
    monkeypatch.setattr("engine_service.rpc.output_messages.MAX_ENTRIES", 3)
    monkeypatch.setattr("engine_service.rpc.output_messages.MAX_IDS", 2)
    monkeypatch.setattr("tokenizer_service.handlers.info_relay.MAX_IDS", 2)


async def test_whoever_joins_a_split_info_has_all_of_it(service: Service, split: None) -> None:
    request = messages.GenerateRequest(
        text="Once upon a time", sampling_params=SEVERAL, return_prompt_token_ids=True
    )
    streamed = [message async for message in service.stub.Generate(request)]
    info = types_pb2.RequestInfo()
    for message in streamed:
        info.MergeFrom(message.info)
    num_tokens = info.prompt_tokens
    assert len(streamed) > num_tokens > 3
    assert len(info.prompt_logprobs) == len(info.prompt_token_ids) == num_tokens
    answer = await service.stub.GenerateOnce(request)
    answer.info.cached_tokens = info.cached_tokens
    assert answer.info == info and len(answer.outputs) == 2
    async with AsyncClient(service.address) as client:
        pieces = [piece async for piece in client.send(request)]
        infos = [piece.info for piece in pieces if piece.info is not None]
        assert len(infos) == 1 and all(piece.token_ids for piece in pieces)
        assert len(infos[0].prompt_logprobs) == len(infos[0].prompt_token_ids) == num_tokens


async def test_a_chat_has_parts_of_its_info_before_its_events(
    service: Service, split: None
) -> None:
    request = messages.ChatRequest(messages=[USER], sampling_params=SEVERAL)
    streamed = [message async for message in service.stub.Chat(request)]
    kinds = [message.WhichOneof("event") for message in streamed]
    num_parts = kinds.index(next(kind for kind in kinds if kind))
    assert num_parts > 3 and None not in kinds[num_parts:]
    assert not any(message.HasField("info") for message in streamed[num_parts:])
    answer = await service.stub.ChatOnce(request)
    assert len(answer.info.prompt_logprobs) == answer.info.prompt_tokens > 3
    assert [each.finish.usage.completion_tokens for each in answer.answers] == [6, 6]
    async with AsyncClient(service.address) as client:
        outputs = [output async for output in client.send_chat(request)]
    (info,) = [output.info for output in outputs if output.info is not None]
    assert outputs[0].info is info and len(info.prompt_logprobs) == info.prompt_tokens


async def test_a_branch_goes_on_where_a_long_output_ends(service: Service, split: None) -> None:
    service.runner.hold(after=5)
    params = types_pb2.SamplingParams(max_tokens=100, ignore_eos=True)
    parent = service.stub.Generate(
        messages.GenerateRequest(request_id="parent", text="a", sampling_params=params)
    )
    assert (await anext(aiter(parent))).request_id == "parent"
    while not service.runner.is_held:
        await asyncio.sleep(0)
    branches = [types_pb2.SamplingParams(max_tokens=3)] * 2
    call = service.stub.Fork(types_pb2.ForkRequest(request_id="parent", branches=branches))
    messages_of_fork = asyncio.ensure_future(collect(call))
    while service.engine.num_requests < 2:
        await asyncio.sleep(0)
    service.runner.release()
    read = completion_reader()
    joined = [each for message in await messages_of_fork if (each := read(message)) is not None]
    assert len(joined) < len(messages_of_fork.result())
    result = RequestOutput.join(joined)
    assert len(result.outputs) == 2
    for output in result.outputs:
        assert output.info is not None and len(output.info.parent_output_token_ids) >= 2
    parent.cancel()
