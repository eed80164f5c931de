"""What a front end learns of requests that fail, and of an engine that does, in a session."""

import asyncio

import pytest

from folovllm.errors import EngineDeadError, RequestFailedError
from support.fakes.model_runner import expected_tokens
from support.processes.engine_sessions import PROMPT, EngineFixture, FrontEnd, ask, front_end


async def test_one_request_is_blamed_and_all_others_go_on() -> None:
    fixture = EngineFixture()
    await fixture.start()
    async with front_end(fixture) as client:
        fixture.runner.hold()
        for name in ("to blame", "neighbour"):
            await client.send(generate=ask(name, max_tokens=9))
        call = asyncio.ensure_future(fixture.generate(ask("call", max_tokens=9)))
        await fixture.until_requests(3)
        fixture.runner.poison = {(len(fixture.runner.steps), 0)}
        fixture.runner.release()
        await client.until(lambda: bool(client.failures) and client.finished("neighbour"))
        error = client.failures.pop("to blame")
        assert isinstance(error, RequestFailedError) and error.request_id == "to blame"
        assert not client.failures
        expected = expected_tokens(PROMPT, 9, seed=7)
        assert client.outputs["neighbour"].outputs[0].token_ids == expected
        assert (await call).outputs[0].token_ids == expected
        # Its name is free, and what it had computed is not used again.
        await client.send(generate=ask("to blame", max_tokens=9))
        assert (await client.result("to blame")).outputs[0].token_ids == expected
    await fixture.until_free()
    await fixture.stop()


async def test_an_engine_that_dies_says_of_each_request_whether_it_had_begun() -> None:
    fixture = EngineFixture()
    await fixture.start()
    client = FrontEnd(fixture)
    fixture.runner.hold()
    for number in range(20):  # 16 run at once
        await client.send(generate=ask(str(number), max_tokens=9))
    await fixture.until_requests(20)
    await fixture.until_held()
    begun = {name for name, stream in fixture.engine._streams.items() if stream.scheduled}
    fixture.runner.failure = RuntimeError("the device is gone")
    fixture.runner.release()
    await client.until(lambda: len(client.failures) == 20)
    errors = client.failures
    assert all(isinstance(error, EngineDeadError) for error in errors.values())
    told = {name for name, error in errors.items() if getattr(error, "scheduled", None)}
    assert told == begun and 0 < len(told) < 20
    with pytest.raises(EngineDeadError, match="has failed") as refused:
        await fixture.generate(ask("later"))
    assert not refused.value.scheduled
    client.call.cancel()
    await asyncio.gather(client.ended, return_exceptions=True)
    await fixture.stop()
