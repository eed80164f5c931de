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
