"""Tokenizing by Client and AsyncClient, against a TokenizerService on a real socket."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from folovllm.errors import InvalidRequestError, ServerError, UnavailableError
from folovllm.sampling_params import SamplingParams
from folovllm.v1.tokenizer_service_pb2 import DetokenizeOptions
from folovllm.v1.tokenizer_service_pb2 import TokenizerFileChunk as Chunk
from folovllm_client.api.async_client import AsyncClient
from folovllm_client.api.sync_client import Client
from folovllm_client.api.text_delta import TextDelta
from support.fakes.tokenizer_service import FakeTokenizerService, running_fake

HELLO = [[*b"he"], [*b"llo"]]
HELLO_DELTAS = [TextDelta("he", 2), TextDelta("llo", 5), TextDelta("", 5, finished=True)]


@pytest.fixture
def fake() -> Iterator[FakeTokenizerService]:
    with running_fake() as fake:
        yield fake


@pytest.fixture
def client(fake: FakeTokenizerService) -> Iterator[Client]:
    with Client(fake.address, timeout=30) as client:
        yield client


@pytest.fixture
async def async_client(fake: FakeTokenizerService) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(fake.address, timeout=30) as client:
        yield client


def file(name: str, *parts: bytes) -> list[Chunk]:
    chunks = [Chunk(name=name, data=part) for part in parts]
    chunks[-1].sha256 = hashlib.sha256(b"".join(parts)).hexdigest()
    return chunks


def test_one_text_has_one_result_and_several_have_a_list(client: Client) -> None:
    assert client.tokenize("hé") == [2, 104, 233]
    assert client.tokenize(["h", ""]) == [[2, 104], [2]]
    assert client.tokenize(("h",), add_special_tokens=False) == [[104]]
    assert client.detokenize(iter([2, 104])) == "h"
    assert client.detokenize([]) == ""
    assert client.detokenize([[104], (2, 233), []]) == ["h", "é", ""]
    assert client.detokenize([[2]], skip_special_tokens=False) == ["\x02"]
    assert client.count_tokens("hé") == 3


def test_ids_that_arrive_become_deltas(client: Client, fake: FakeTokenizerService) -> None:
    params = SamplingParams(stop=("x",), min_tokens=2, skip_special_tokens=False)
    deltas = list(client.stream_detokenize(iter(HELLO), params, preceding_token_ids=[7]))
    assert deltas == HELLO_DELTAS
    assert fake.streams[0][0].options == DetokenizeOptions(
        skip_special_tokens=False,
        stop=["x"],
        include_stop_str_in_output=False,
        min_tokens=2,
        preceding_token_ids=[7],
    )


def test_a_delta_comes_before_the_next_ids_are_read(client: Client) -> None:
    asked = []

    def pieces() -> Iterator[list[int]]:
        for piece in HELLO:
            asked.append(piece)
            yield piece

    for number, _ in zip((1, 2), client.stream_detokenize(pieces()), strict=False):
        assert len(asked) == number


def test_a_stop_string_ends_the_deltas(client: Client) -> None:
    pieces = iter([[*b"hi"], [*b"."], [*b"more"]])
    deltas = list(client.stream_detokenize(pieces))
    assert deltas[1:] == [TextDelta(".", 3, ".", finished=True)]
    assert next(pieces) == [*b"more"]


def test_an_error_of_the_pieces_is_raised_and_ends_the_call(
    client: Client, fake: FakeTokenizerService
) -> None:
    def pieces() -> Iterator[list[int]]:
        yield [104]
        raise RuntimeError("the engine died")

    with pytest.raises(RuntimeError, match="the engine died"):
        list(client.stream_detokenize(pieces()))
    assert fake.stream_ended.wait(10)


def test_closing_the_deltas_ends_the_call(client: Client, fake: FakeTokenizerService) -> None:
    deltas = client.stream_detokenize(HELLO)
    next(deltas)
    deltas.close()
    assert fake.stream_ended.wait(10)


def test_an_error_of_the_service_arrives(client: Client) -> None:
    with pytest.raises(InvalidRequestError, match="top_p is wrong"):
        list(client.stream_detokenize([[*b"!INVALID_ARGUMENT"], [1]]))


def test_the_tokenizers_files_are_saved(
    client: Client, fake: FakeTokenizerService, tmp_path: Path
) -> None:
    large = b"x" * 64 * 1024
    fake.tokenizer_chunks = [*file("tokenizer.json", large, b"{}"), *file("merges.txt", b"")]
    folder = tmp_path / "new" / "folder"
    paths = client.save_tokenizer(str(folder))
    assert paths == [folder / "tokenizer.json", folder / "merges.txt"]
    assert [path.read_bytes() for path in paths] == [large + b"{}", b""]
    fake.tokenizer_chunks = file("tokenizer.json", b"{1}")
    client.save_tokenizer(folder)
    assert sorted(folder.iterdir()) == sorted(paths), "nothing else is left"
    assert paths[0].read_bytes() == b"{1}"


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ([Chunk(name="b", data=b"x", sha256="0" * 64)], "b has not arrived as it was sent"),
        ([Chunk(name="b", data=b"x")], "b was cut off"),
        ([Chunk(name="b", data=b"x"), *file("c", b"")], "b was cut off by 'c'"),
        (file("../b", b""), "the server names a file '../b'"),
        (file("..", b""), r"the server names a file '\.\.'"),
        (file("a", b""), "the server names a file 'a'"),
    ],
)
def test_files_that_do_not_arrive_whole_leave_nothing(
    client: Client, fake: FakeTokenizerService, tmp_path: Path, chunks: list[Chunk], message: str
) -> None:
    fake.tokenizer_chunks = [*file("a", b"new"), *chunks]
    (tmp_path / "a").write_text("old")
    with pytest.raises(ServerError, match=message):
        client.save_tokenizer(tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]
    assert (tmp_path / "a").read_text() == "old"


def test_a_server_without_files_is_an_error(client: Client, tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="the tokenizer was cut off"):
        client.save_tokenizer(tmp_path)


async def test_the_async_client_gives_the_same_answers(
    async_client: AsyncClient, fake: FakeTokenizerService, tmp_path: Path
) -> None:
    assert await async_client.tokenize(["h", ""]) == [[2, 104], [2]]
    assert await async_client.detokenize([[104], [2, 233]]) == ["h", "é"]
    assert await async_client.count_tokens("hé") == 3
    fake.tokenizer_chunks = file("tokenizer.json", b"{", b"}")
    [path] = await async_client.save_tokenizer(tmp_path)
    assert path.read_bytes() == b"{}"


async def test_async_deltas(async_client: AsyncClient, fake: FakeTokenizerService) -> None:
    async def pieces() -> AsyncIterator[list[int]]:
        for piece in HELLO:
            yield piece

    assert [delta async for delta in async_client.stream_detokenize(HELLO)] == HELLO_DELTAS
    assert [delta async for delta in async_client.stream_detokenize(pieces())] == HELLO_DELTAS
    ended = async_client.stream_detokenize([[*b"hi."], [*b"more"]], SamplingParams(stop=(".",)))
    assert [delta.stop_string async for delta in ended] == ["."]
    assert fake.streams[2][0].options.stop == ["."]


@pytest.mark.parametrize(
    ("code", "error"),
    [("INVALID_ARGUMENT", InvalidRequestError), ("UNAVAILABLE", UnavailableError)],
)
async def test_an_error_ends_async_deltas(
    async_client: AsyncClient, code: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        async for _ in async_client.stream_detokenize([[*f"!{code}".encode()], [1], [2]]):
            pass


async def test_closing_async_deltas_ends_the_call(
    async_client: AsyncClient, fake: FakeTokenizerService
) -> None:
    async with aclosing(async_client.stream_detokenize(HELLO)) as deltas:
        await anext(deltas)
    assert await asyncio.to_thread(fake.stream_ended.wait, 10)
