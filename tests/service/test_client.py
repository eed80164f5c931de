"""Client and AsyncClient against a TokenizerService on a real socket."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import aclosing

import pytest

from folovllm.errors import (
    DeadlineError,
    InvalidRequestError,
    NotFoundError,
    QueueFullError,
    ServerError,
    UnavailableError,
    UnreachableError,
    UnsupportedError,
)
from folovllm.model_info import ModelInfo
from folovllm.outputs import FinishReason
from folovllm.sampling_params import SamplingParams
from folovllm.serving.healthcheck import TOKENIZER_SERVICE
from folovllm.v1 import types_pb2
from folovllm_client.api.async_client import AsyncClient
from folovllm_client.api.sync_client import Client
from support.fakes.tokenizer_service import FakeTokenizerService, as_asked, running_fake


@pytest.fixture
def fake() -> Iterator[FakeTokenizerService]:
    with running_fake() as fake:
        yield fake


@pytest.fixture
def address(fake: FakeTokenizerService) -> str:
    return fake.address


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address) as client:
        yield client


def test_generate_joins_the_pieces_of_every_continuation(client: Client) -> None:
    output = client.generate("abc", SamplingParams(n=2))
    assert output.finished
    assert [answer.text for answer in output.outputs] == ["cba", "cba"]
    assert output.outputs[1].token_ids == [99, 98, 97]
    assert output.outputs[0].finish_reason is FinishReason.LENGTH
    assert output.prompt == "abc"
    assert output.prompt_token_ids == [97, 98, 99]


@pytest.mark.parametrize("prompt", [[97, 98], (97, 98), {"prompt_token_ids": [97, 98]}])
def test_token_ids_are_sent_as_they_are(
    client: Client, fake: FakeTokenizerService, prompt: list[int] | dict[str, list[int]]
) -> None:
    output = client.generate(prompt)
    assert fake.requests[0].WhichOneof("prompt") == "token_ids"
    assert (output.prompt, output.prompt_token_ids) == (None, [97, 98])
    assert output.outputs[0].text == "ba"


def test_sampling_params_are_sent_complete_or_not_at_all(
    client: Client, fake: FakeTokenizerService
) -> None:
    client.generate("a")
    client.generate("a", SamplingParams(temperature=0))
    unset, complete = map(as_asked, fake.requests)
    assert not unset.HasField("sampling_params")
    assert complete.sampling_params == SamplingParams(temperature=0).to_proto()
    assert complete.sampling_params.HasField("top_p")


def test_the_fields_of_a_request_arrive(client: Client, fake: FakeTokenizerService) -> None:
    output = client.generate("a", request_id="r1", priority=-2, cache_salt="s", timeout=30)
    request = fake.requests[0]
    assert (request.request_id, request.priority, request.cache_salt) == ("r1", -2, "s")
    assert output.request_id == "r1"
    assert fake.deadlines[0] is not None and fake.deadlines[0] < 60


def test_streamed_pieces_are_deltas(client: Client) -> None:
    pieces = list(client.stream("abc"))
    assert [piece.text for piece in pieces] == ["c", "b", "a"]
    assert [piece.finished() for piece in pieces] == [False, False, True]


def test_closing_a_stream_cancels_the_call(client: Client, fake: FakeTokenizerService) -> None:
    stream = client.stream("forever")
    assert next(stream).text == "a"
    assert not fake.cancelled.is_set()
    stream.close()
    assert fake.cancelled.wait(10)


def test_dropping_a_stream_cancels_the_call(client: Client, fake: FakeTokenizerService) -> None:
    for _ in client.stream("forever"):
        break
    assert fake.cancelled.wait(10)


def test_closing_the_client_ends_a_stream_that_another_thread_reads(address: str) -> None:
    client = Client(address)
    began, failures = threading.Event(), []

    def read() -> None:
        try:
            for _ in client.stream("forever"):
                began.set()
        except Exception as error:
            failures.append(type(error).__name__)

    reader = threading.Thread(target=read)
    reader.start()
    assert began.wait(10)
    client.close()
    reader.join(10)
    assert failures == ["ClientClosedError"]


def test_text_and_ids(client: Client) -> None:
    assert client.tokenize("hé") == [2, 104, 233]
    assert client.tokenize("h", add_special_tokens=False) == [104]
    assert client.detokenize([2, 104, 233]) == "hé"
    assert client.detokenize([2, 104], skip_special_tokens=False) == "\x02h"


def test_model_info_has_every_field_of_the_contract(client: Client) -> None:
    info = client.model_info()
    assert info.eos_token_ids == (0, 3)
    assert (info.model_id, info.max_model_len, info.device) == ("fake", 512, "cpu")
    names = [field.name for field in types_pb2.ModelInfo.DESCRIPTOR.fields]
    assert list(ModelInfo.__dataclass_fields__) == names


def test_health(client: Client) -> None:
    assert client.health() == "SERVING"
    assert client.health(TOKENIZER_SERVICE) == "SERVING"
    with pytest.raises(NotFoundError):
        client.health("nobody")


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("INVALID_ARGUMENT", InvalidRequestError),
        ("RESOURCE_EXHAUSTED", QueueFullError),
        ("DEADLINE_EXCEEDED", DeadlineError),
        ("UNAVAILABLE", UnavailableError),
        ("UNIMPLEMENTED", UnsupportedError),
        ("INTERNAL", ServerError),
    ],
)
@pytest.mark.parametrize("when", ["!", "!!"], ids=["at once", "after a piece"])
def test_statuses_become_errors(
    client: Client, code: str, error: type[Exception], when: str
) -> None:
    with pytest.raises(error) as caught:
        client.generate(when + code)
    assert type(caught.value) is error


def test_details_of_an_error_arrive(client: Client) -> None:
    with pytest.raises(InvalidRequestError, match="top_p is wrong") as invalid:
        client.generate("!INVALID_ARGUMENT")
    assert invalid.value.field == "sampling_params.top_p"
    with pytest.raises(UnavailableError, match="^no engine is ready$"):
        client.generate("!UNAVAILABLE")


def test_a_deadline_of_the_call_wins_over_the_clients(address: str) -> None:
    with Client(address, timeout=60) as client, pytest.raises(DeadlineError):
        client.generate("forever", timeout=0.2)
    with Client(address, timeout=0.2) as client, pytest.raises(DeadlineError):
        client.generate("forever")


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda client: client.stream(17), "prompt"),
        (lambda client: client.stream({"ids": [1]}), "prompt"),
        (lambda client: client.stream(b"bytes"), "prompt"),
        (lambda client: client.stream([-1]), "token_ids"),
        (lambda client: client.stream([1, "a"]), "prompt_token_ids"),
        (lambda client: client.stream(["a", "b"]), "prompt"),
        (lambda client: client.stream("\ud800"), "text"),
        (lambda client: client.stream("a", priority=2**31), "priority"),
        (lambda client: client.stream("a", SamplingParams(stop=("\ud800",))), "sampling_params"),
        (lambda client: client.tokenize("\ud800"), "texts"),
        (lambda client: client.tokenize(["a", 7]), "texts"),
        (lambda client: client.count_tokens("\ud800"), "text"),
        (lambda client: client.detokenize([2**32]), "sequences[0]"),
        (lambda client: client.detokenize([[1], [-1]]), "sequences[1]"),
        (lambda client: client.detokenize([[1], 7]), "sequences[1]"),
        (lambda client: next(client.stream_detokenize([[-1]])), "token_ids"),
        (lambda client: next(client.stream_detokenize([], preceding_token_ids=[-1])), "options"),
    ],
)
def test_what_the_contract_cannot_carry_is_refused_before_it_is_sent(
    client: Client, fake: FakeTokenizerService, call: object, field: str
) -> None:
    assert callable(call)
    with pytest.raises(InvalidRequestError) as caught:
        call(client)
    assert caught.value.field == field
    assert not fake.requests


def test_a_server_that_is_not_there_is_named() -> None:
    with running_fake() as fake:
        address = fake.address
    with Client(address) as client, pytest.raises(UnreachableError) as caught:
        client.tokenize("a")
    assert str(caught.value) == f"nothing answers at {address} (Connection refused)"


def test_a_server_that_is_slow_to_accept_is_waited_for() -> None:
    # The kernel completes the connection of a socket that listens; no data is ever sent on it.
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with Client(address, timeout=1) as client, pytest.raises(DeadlineError):
            client.tokenize("a")


def test_a_server_that_goes_away_ends_the_stream_with_an_error(
    client: Client, fake: FakeTokenizerService
) -> None:
    stream = client.stream("forever")
    next(stream)
    fake.server.stop(None)
    with pytest.raises(UnavailableError) as caught:
        next(stream)
    assert not isinstance(caught.value, UnreachableError)


async def test_async_client_gives_the_same_answers(
    address: str, fake: FakeTokenizerService
) -> None:
    async with AsyncClient(address, timeout=30) as client:
        output = await client.generate("abc", SamplingParams(n=2), request_id="r1")
        assert [answer.text for answer in output.outputs] == ["cba", "cba"]
        assert (output.prompt, output.prompt_token_ids) == ("abc", [97, 98, 99])
        assert output.request_id == "r1"
        assert [piece.text async for piece in client.stream([97, 98])] == ["b", "a"]
        assert await client.tokenize("h") == [2, 104]
        assert await client.detokenize([2, 104]) == "h"
        assert (await client.model_info()).max_model_len == 512
        assert await client.health(TOKENIZER_SERVICE) == "SERVING"
    assert not as_asked(fake.requests[1]).HasField("sampling_params")
    assert fake.deadlines[1] is not None and fake.deadlines[1] < 60


async def test_async_errors(address: str) -> None:
    async with AsyncClient(address) as client:
        with pytest.raises(InvalidRequestError) as invalid:
            await client.generate("!!INVALID_ARGUMENT")
        assert invalid.value.field == "sampling_params.top_p"
        with pytest.raises(NotFoundError):
            await client.health("nobody")
        with pytest.raises(DeadlineError):
            await client.generate("forever", timeout=0.2)
        with pytest.raises(InvalidRequestError):
            client.stream([-1])


async def test_async_client_names_a_server_that_is_not_there() -> None:
    with running_fake() as fake:
        address = fake.address
    async with AsyncClient(address) as client:
        with pytest.raises(UnreachableError, match=f"nothing answers at {address}"):
            await client.model_info()


async def test_cancelling_the_task_cancels_the_call(
    address: str, fake: FakeTokenizerService
) -> None:
    async with AsyncClient(address) as client:
        began = asyncio.Event()

        async def read() -> None:
            async for _ in client.stream("forever"):
                began.set()

        task = asyncio.create_task(read())
        await asyncio.wait_for(began.wait(), 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(fake.cancelled.wait, 10)


@pytest.mark.parametrize("how", ["break", "aclosing"])
async def test_leaving_an_async_stream_cancels_the_call(
    address: str, fake: FakeTokenizerService, how: str
) -> None:
    async with AsyncClient(address) as client:
        if how == "break":
            async for _ in client.stream("forever"):
                break
        else:
            async with aclosing(client.stream("forever")) as stream:
                await anext(stream)
        assert await asyncio.to_thread(fake.cancelled.wait, 10)


def test_prompts_of_every_form(client: Client, fake: FakeTokenizerService) -> None:
    output = client.generate({"prompt": "ab", "cache_salt": "s"})
    assert (output.prompt, output.prompt_token_ids) == ("ab", [97, 98])
    assert client.generate({"prompt": "ab", "prompt_token_ids": [99]}).outputs[0].text == "c"
    assert fake.requests[0].cache_salt == "s"
    with pytest.raises(InvalidRequestError, match="^one prompt a call; generate_many takes sev"):
        client.generate(["a", "b"])  # type: ignore[list-item]
    with pytest.raises(InvalidRequestError, match="^a prompt has no multi_modal_data$"):
        client.generate({"prompt": "a", "multi_modal_data": {}})


def test_sampling_parameters_are_keywords(client: Client, fake: FakeTokenizerService) -> None:
    client.generate("a", max_tokens=32, temperature=0)
    list(client.stream("a", SamplingParams(top_p=0.5), n=2))
    client.chat("a", max_completion_tokens=32, logit_bias={"7": 1})
    first, second = map(as_asked, fake.requests)
    assert first.sampling_params == types_pb2.SamplingParams(max_tokens=32, temperature=0)
    assert second.sampling_params == SamplingParams(top_p=0.5, n=2).to_proto()
    assert as_asked(fake.chats[0]).sampling_params == types_pb2.SamplingParams(
        max_tokens=32, logit_bias={7: 1}
    )
