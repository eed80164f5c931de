"""2,000 messages of every kind to every method of both services: each gets a proper answer.

`make fuzz` sends 500,000 to real processes, beside a canary.
"""

from collections.abc import AsyncIterator

import grpc
import pytest
import structlog

from folovllm.model_files import DEMO_MODEL
from fuzz.cases import KINDS, METHODS, case
from fuzz.sender import Sender
from support.fakes.engine_factory import make_engine
from support.fakes.model_runner import FakeModelRunner
from support.processes.joined_services import JoinedServices
from tokenizer_service.model import TextModel

SEED, COUNT, WIDTH = 1, 2000, 32


@pytest.fixture
async def services() -> AsyncIterator[JoinedServices]:
    model = TextModel.from_folder(DEMO_MODEL)
    llm_engine, runner = make_engine(
        runner=FakeModelRunner(4, 2048),
        vocab_size=2048,
        num_blocks=256,
        tokenizer_fingerprint=model.tokenizer.fingerprint,
    )
    services = JoinedServices(llm_engine, runner, model.tokenizer, model.chat_template)
    await services.start()
    yield services
    await services.stop()


def test_a_seed_makes_the_same_messages_again() -> None:
    cases = [case(3, number) for number in range(400)]
    assert cases == [case(3, number) for number in range(400)]
    assert cases != [case(4, number) for number in range(400)]
    assert {each.kind for each in cases} == {*KINDS}
    assert {each.method.full_name for each in cases} == {each.full_name for _, each in METHODS}


async def test_whatever_is_sent_is_answered(
    services: JoinedServices, caplog: pytest.LogCaptureFixture
) -> None:
    free = services.engine.load.num_free_kv_blocks
    with structlog.testing.capture_logs() as lines:
        async with grpc.aio.insecure_channel(services.engine_address) as engine:
            sender = Sender({"front end": services.channel, "engine": engine}, SEED)
            await sender.send_all(iter(range(COUNT)), WIDTH)
        await services.until_free(free)
    assert sender.complaints == []
    assert sender.ended.total() == COUNT
    assert min(sender.ended[code] for code in ("OK", "INVALID_ARGUMENT")) > 200
    assert [line for line in lines if "exc_info" in line] == []
    assert not caplog.records
