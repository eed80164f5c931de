"""The longest answers on real sockets, read by clients that take 4 MiB as gRPC's do by default."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from engine_service.core.outputs import ScheduledSequence
from folovllm.logprobs import Logprob, PositionLogprobs
from folovllm.model_files import DEMO_MODEL
from folovllm.serving.channel import MAX_MESSAGE_BYTES
from folovllm.v1 import tokenizer_service_pb2 as messages
from folovllm.v1 import types_pb2
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
