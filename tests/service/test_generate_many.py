"""generate_many of Client and AsyncClient, and what closing a client does to calls, on a socket."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from folovllm import AsyncClient, Client, SamplingParams
from folovllm.errors import (
    ClientClosedError,
    DeadlineError,
    FolovError,
    InvalidRequestError,
    QueueFullError,
    ServerError,
)
from folovllm.outputs import RequestOutput
from support.fakes.tokenizer_service import FakeTokenizerService, running_fake

GenerateMany = Callable[..., list[RequestOutput]]


@pytest.fixture
def fake() -> Iterator[FakeTokenizerService]:
    with running_fake() as fake:
        yield fake


@pytest.fixture(params=["threads", "asyncio"])
def generate_many(request: pytest.FixtureRequest, fake: FakeTokenizerService) -> GenerateMany:
    """The method of either client."""

    def from_threads(*arguments: Any, **options: Any) -> list[RequestOutput]:
        with Client(fake.address) as client:
            return client.generate_many(*arguments, **options)

    def from_asyncio(*arguments: Any, **options: Any) -> list[RequestOutput]:
        async def call() -> list[RequestOutput]:
            async with AsyncClient(fake.address) as client:
                return await client.generate_many(*arguments, **options)

        return asyncio.run(call())

    return from_threads if request.param == "threads" else from_asyncio


def nothing_runs(fake: FakeTokenizerService) -> bool:
    return all(ended.wait(10) for ended in fake.endless)


def test_answers_come_in_the_order_of_the_prompts(
    generate_many: GenerateMany, fake: FakeTokenizerService
) -> None:
    prompts = ["ab", [99, 100, 101], {"prompt": "f"}, {"prompt_token_ids": [103], "prompt": "g"}]
    outputs = generate_many(iter(prompts), SamplingParams(n=2), temperature=0, priority=3)
    assert [[answer.text for answer in output.outputs] for output in outputs] == [
        ["ba", "ba"],
        ["edc", "edc"],
        ["f", "f"],
        ["g", "g"],
    ]
    assert [output.prompt for output in outputs] == ["ab", None, "f", "g"]
    assert outputs[0].prompt_token_ids == [97, 98]
    assert {(each.priority, each.sampling_params.temperature) for each in fake.requests} == {(3, 0)}
    assert generate_many([]) == []


def test_one_at_a_time(generate_many: GenerateMany, fake: FakeTokenizerService) -> None:
    outputs = generate_many(["a", "b", "c"], max_concurrency=1)
    assert [output.outputs[0].text for output in outputs] == ["a", "b", "c"]
    assert [request.text for request in fake.requests] == ["a", "b", "c"]


def test_an_error_names_its_prompt_and_ends_the_others(
    generate_many: GenerateMany, fake: FakeTokenizerService
) -> None:
    with pytest.raises(ServerError, match=r"^prompts\[2\]: as requested$"):
        generate_many(["forever", "forever", "!2!INTERNAL", "forever"], max_concurrency=3)
    assert len(fake.requests) == 3  # the fourth had no place
    assert nothing_runs(fake)


def test_an_invalid_prompt_is_refused_before_any_is_sent(
    generate_many: GenerateMany, fake: FakeTokenizerService
) -> None:
    for prompts, options, message in (
        (["a", 7], {}, r"^prompts\[1\]: a prompt is a text, "),
        (["a", ["b"]], {}, r"^prompts\[1\]: one prompt a call"),
        ("abc", {}, "^prompts must be a list of prompts, got 'abc'"),
        (["a"], {"max_concurrency": 0}, "^max_concurrency must be over 0, got 0"),
        (["a"], {"top_p": 2}, r"^prompts\[0\]: top_p must be "),
    ):
        with pytest.raises(InvalidRequestError, match=message):
            generate_many(prompts, **options)
    assert not fake.requests


def test_the_time_out_is_each_prompts_own(
    generate_many: GenerateMany, fake: FakeTokenizerService
) -> None:
    with pytest.raises(DeadlineError, match=r"^prompts\[1\]: no complete answer within 0.2 s$"):
        generate_many(["a", "forever"], timeout=0.2)
    assert nothing_runs(fake)


def test_what_is_refused_for_lack_of_room_returns_under_its_name(
    generate_many: GenerateMany, fake: FakeTokenizerService
) -> None:
    fake.refusals = [QueueFullError("full", retry_after=0.01) for _ in range(5)]
    outputs = generate_many(["ab", "cd", "ef"], timeout=20)
    assert [output.outputs[0].text for output in outputs] == ["ba", "dc", "fe"]
    names = {text: {r.request_id for r in fake.requests if r.text == text} for text in ("ab", "cd")}
    assert len(fake.requests) == 8 and names["ab"].isdisjoint(names["cd"])
    assert all(len(each) == 1 and "" not in each for each in names.values())


def test_a_refusal_is_final_if_there_is_no_time_for_another_attempt_or_there_were_many(
    generate_many: GenerateMany, fake: FakeTokenizerService
) -> None:
    fake.refusals = [QueueFullError("full", retry_after=7)]
    with pytest.raises(QueueFullError, match=r"^prompts\[0\]: full$") as refused:
        generate_many(["a"], timeout=5)
    assert refused.value.retry_after == 7
    fake.refusals = [QueueFullError("full", retry_after=0.001) for _ in range(100)]
    with pytest.raises(QueueFullError):
        generate_many(["a"])
    assert len(fake.requests) == 31


def test_closing_the_client_ends_what_waits_for_its_turn(fake: FakeTokenizerService) -> None:
    fake.refusals = [QueueFullError("full", retry_after=600)]
    client, failures = Client(fake.address), []

    def ask() -> None:
        try:
            client.generate_many(["a"])
        except FolovError as error:
            failures.append(type(error))

    caller = threading.Thread(target=ask)
    caller.start()
    assert fake.refused.wait(10)
    client.close()
    caller.join(10)
    assert failures == [ClientClosedError]


async def test_closing_the_async_client_ends_what_waits_for_its_turn(
    fake: FakeTokenizerService,
) -> None:
    fake.refusals = [QueueFullError("full", retry_after=600)]
    client = AsyncClient(fake.address)
    asking = asyncio.create_task(client.generate_many(["a"]))
    assert await asyncio.to_thread(fake.refused.wait, 10)
    await client.close()
    with pytest.raises(ClientClosedError):
        await asking


async def test_cancelling_the_task_ends_every_call(fake: FakeTokenizerService) -> None:
    async with AsyncClient(fake.address) as client:
        task = asyncio.create_task(client.generate_many(["forever"] * 3))
        assert await asyncio.to_thread(fake.wait_for_endless, 3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(nothing_runs, fake)


async def test_closing_the_async_client_ends_its_calls(fake: FakeTokenizerService) -> None:
    client = AsyncClient(fake.address)

    async def read() -> None:
        async for _ in client.stream("forever"):
            pass

    calls = [client.generate("forever"), read(), client.generate_many(["forever", "forever"])]
    tasks = [asyncio.ensure_future(call) for call in calls]
    assert await asyncio.to_thread(fake.wait_for_endless, 4)
    await client.close()
    failures = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(failure) for failure in failures] == [ClientClosedError] * 3
    assert await asyncio.to_thread(nothing_runs, fake)


def test_closing_the_client_ends_its_calls(fake: FakeTokenizerService) -> None:
    client, failures = Client(fake.address), []

    def read() -> None:
        try:
            client.generate_many(["forever"] * 3)
        except FolovError as error:
            failures.append(type(error))

    reader = threading.Thread(target=read)
    reader.start()
    assert fake.wait_for_endless(3)
    client.close()
    reader.join(10)
    assert failures == [ClientClosedError]
    assert nothing_runs(fake)
