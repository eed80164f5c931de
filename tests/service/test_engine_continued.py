"""Requests that are continued, over the wire, with a fake model."""

from collections.abc import AsyncIterator

import pytest

from engine_service.core.token_matcher import TokenMatcher
from engine_service.engine.matcher_maker import MatcherMaker
from folovllm.errors import InvalidRequestError
from folovllm.outputs import RequestOutput
from folovllm.v1 import types_pb2
from support.fakes.matcher import FakeMatcher
from support.fakes.model_runner import expected_tokens
from support.processes.engine_sessions import (
    PROMPT,
    EngineFixture,
    FrontEnd,
    ask,
    ask_fork,
    front_end,
)

Output = types_pb2.ContinuedOutput


@pytest.fixture
async def fixture() -> AsyncIterator[EngineFixture]:
    fixture = EngineFixture()
    await fixture.start()
    yield fixture
    await fixture.stop()


@pytest.fixture
async def client(fixture: EngineFixture) -> AsyncIterator[FrontEnd]:
    async with front_end(fixture) as client:
        yield client


def go_on(whole: RequestOutput, cuts: dict[int, int]) -> types_pb2.Request:
    """A request that goes on with some outputs of one, each before a token, by what was sent."""
    assert whole.info is not None
    request = ask(whole.request_id)
    request.sampling_params.CopyFrom(whole.info.sampling_params.to_proto())
    for index, count in cuts.items():
        output = whole.outputs[index]
        logprobs = [position.token.logprob or 0.0 for position in output.logprobs[:count]]
        request.continued.outputs.append(
            Output(index=index, token_ids=output.token_ids[:count], logprobs=logprobs)
        )
    return request


async def test_what_follows_is_sent_and_nothing_else(fixture: EngineFixture) -> None:
    whole = await fixture.generate(ask("a", max_tokens=9, n=4, logprobs=1, top_k=30))
    result = await fixture.generate(go_on(whole, {3: 8, 1: 0}))
    ended, second, fourth = (result.outputs[index] for index in (0, 1, 3))
    assert not ended.token_ids and not ended.finished()
    assert second.token_ids == whole.outputs[1].token_ids
    assert fourth.token_ids == whole.outputs[3].token_ids[8:]
    assert fourth.logprobs == whole.outputs[3].logprobs[8:]
    for output in (second, fourth):
        assert output.cumulative_logprob == whole.outputs[output.index].cumulative_logprob
        assert output.usage and output.usage.completion_tokens == 9
        assert output.usage.prompt_tokens == len(PROMPT)
    assert result.info and whole.info
    assert result.info.sampling_params == whole.info.sampling_params


async def test_in_a_session_it_may_fork_and_be_aborted(
    fixture: EngineFixture, client: FrontEnd
) -> None:
    whole = await fixture.generate(ask("a", max_tokens=90))
    ids = whole.outputs[0].token_ids
    fixture.runner.hold(after=1)
    await client.send(generate=go_on(whole, {0: 20}))
    await client.until(lambda: "a" in client.outputs)
    await client.send(fork=ask_fork("a", "f", max_tokens=3, seed=7))
    await fixture.until_requests(2)
    fixture.runner.release()
    fork = await client.result("f")
    assert fork.info is not None
    begun = list(fork.info.parent_output_token_ids)
    assert begun == ids[: len(begun)] and len(begun) > 20
    assert fork.outputs[0].token_ids == expected_tokens([*PROMPT, *begun], 3, seed=7)
    await client.send(abort={"request_id": "a"})
    result = await client.result("a")
    sent = result.outputs[0].token_ids
    assert sent == ids[20 : 20 + len(sent)]
    assert result.outputs[0].usage and result.outputs[0].usage.completion_tokens == 20 + len(sent)


async def test_what_the_grammar_does_not_accept_fails_by_name(
    fixture: EngineFixture, client: FrontEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def compiled(*arguments: object) -> TokenMatcher:
        return FakeMatcher(9)

    monkeypatch.setattr(MatcherMaker, "_matcher", compiled)
    whole = await fixture.generate(ask("a", max_tokens=20, n=2, regex="x"))
    assert len(whole.outputs[0].token_ids) == 9 and whole.outputs[0].output_complete
    await client.send(generate=go_on(whole, {0: 7, 1: 2}))
    await client.until(lambda: client.finished("a", 2))
    for output, cut in zip(client.outputs["a"].outputs, (7, 2), strict=True):
        assert output.token_ids == whole.outputs[output.index].token_ids[cut:]
        assert output.output_complete
    wrong = go_on(whole, {0: 7, 1: 2})
    wrong.request_id = "wrong"
    wrong.continued.outputs[1].token_ids[1] += 1
    wrong.continued.outputs[1].token_ids.append(wrong.continued.outputs[1].token_ids[0])
    with pytest.raises(InvalidRequestError, match="grammar") as caught:
        await fixture.generate(wrong)
    assert caught.value.field == "continued.outputs[1].token_ids"
    await client.send(generate=wrong)
    with pytest.raises(InvalidRequestError) as caught:
        await client.result("wrong")
    assert caught.value.field == "continued.outputs[1].token_ids"
    complete = go_on(whole, {0: 9})
    with pytest.raises(InvalidRequestError, match="ends after 9 ids"):
        await fixture.generate(complete)


async def test_what_has_ended_is_refused_by_name(fixture: EngineFixture) -> None:
    whole = await fixture.generate(ask("a", max_tokens=5))
    with pytest.raises(InvalidRequestError, match="max_tokens is 5") as caught:
        await fixture.generate(go_on(whole, {0: 5}))
    assert caught.value.field == "continued.outputs[0].token_ids"


@pytest.mark.parametrize(
    ("outputs", "field"),
    [
        ([{"index": 2}], "outputs[0].index"),
        ([{}, {}], "outputs[1].index"),
        ([{"token_ids": range(9)}], "outputs[0].token_ids"),
        ([{}, {"index": 1, "token_ids": [4, 10**6]}], "outputs[1].token_ids"),
        ([{"token_ids": [4, 50, 6]}], "outputs[0].token_ids[1]"),
        ([{"token_ids": [4], "logprobs": [-1.0]}], "outputs[0].logprobs"),
    ],
)
async def test_what_could_not_be_is_refused_by_name_in_a_session_and_alone(
    fixture: EngineFixture, client: FrontEnd, outputs: list[dict[str, object]], field: str
) -> None:
    request = ask("a", max_tokens=9, n=2, stop_token_ids=[50])
    for output in outputs:
        request.continued.outputs.add(**output)
    await client.send(generate=request)
    request.request_id = "b"
    for result in (client.result("a"), fixture.generate(request)):
        with pytest.raises(InvalidRequestError) as caught:
            await result
        assert caught.value.field == f"continued.{field}"
    assert fixture.engine.num_admitted == 0
