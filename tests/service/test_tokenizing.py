"""Tokenizing as a service, on a real socket: text to token ids and back, without an engine."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from folovllm.errors import InvalidRequestError, from_rpc_error
from folovllm.serving.channel import CLIENT_OPTIONS
from folovllm.serving.healthcheck import TOKENIZER_SERVICE
from folovllm.serving.server import GrpcServer, ServerConfig
from folovllm.v1 import tokenizer_service_pb2 as messages
from folovllm.v1 import tokenizer_service_pb2_grpc, types_pb2
from support.builders.engine_pools import until_ready
from support.builders.sample_tokenizers import EOS, EOS_ID, VOCAB_SIZE, save_byte_tokenizer
from support.fakes.engine import FakeEngine, running
from tokenizer_service.engines.fingerprints import Fingerprints
from tokenizer_service.engines.pool import EnginePool
from tokenizer_service.servicer import TokenizerServicer
from tokenizer_service.text.tokenizer import Tokenizer

MAX_PROMPT_BYTES = 300_000
HELLO = 259
Ids = types_pb2.TokenIds
Options = messages.DetokenizeOptions


@asynccontextmanager
async def service(folder: Path, *engines: str) -> AsyncIterator[Any]:
    """A stub of a service that was started on a model's folder."""
    tokenizer = Tokenizer.from_folder(folder)
    async with AsyncExitStack() as stack:
        pool = EnginePool(engines or ["127.0.0.1:1"], Fingerprints(tokenizer.fingerprint, ""))
        stack.push_async_callback(pool.close)
        if engines:
            pool.start()
            await until_ready(pool)
        server = GrpcServer(ServerConfig(), TOKENIZER_SERVICE)
        servicer = TokenizerServicer(tokenizer, pool, MAX_PROMPT_BYTES)
        tokenizer_service_pb2_grpc.add_TokenizerServiceServicer_to_server(servicer, server.grpc)
        port = server.bind()
        await server.start()
        stack.push_async_callback(server.grpc.stop, None)
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", CLIENT_OPTIONS)
        stack.push_async_callback(channel.close)
        yield tokenizer_service_pb2_grpc.TokenizerServiceStub(channel)


@pytest.fixture
async def stub(tmp_path: Path) -> AsyncIterator[Any]:
    async with service(save_byte_tokenizer(tmp_path)) as stub:
        yield stub


async def error_of(call: Any) -> tuple[grpc.StatusCode, str]:
    """Code and field of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        if hasattr(call, "__await__"):
            await call
        else:
            _ = [answer async for answer in call]
    error = from_rpc_error(caught.value)
    return caught.value.code(), error.field if isinstance(error, InvalidRequestError) else ""


def tokenize(*texts: str, **options: bool) -> messages.TokenizeRequest:
    return messages.TokenizeRequest(texts=texts, **options)


def detokenize(*sequences: list[int], **options: bool) -> messages.DetokenizeRequest:
    return messages.DetokenizeRequest(sequences=[Ids(ids=ids) for ids in sequences], **options)


async def test_texts_become_ids_in_their_order(stub: Any) -> None:
    reply = await stub.Tokenize(tokenize(f"hello{EOS}", "", "a"))
    assert [list(e.token_ids) for e in reply.encodings] == [[HELLO, EOS_ID], [], [ord("a")]]
    assert not any(e.pieces or e.char_starts or e.byte_ends for e in reply.encodings)


async def test_pieces_are_the_bytes_of_the_text(stub: Any) -> None:
    text = f"hello wé😀{EOS}"
    reply = await stub.Tokenize(tokenize(text, "", return_pieces=True))
    pieces = list(reply.encodings[0].pieces)
    assert pieces == [b"hello", b" w", *(bytes([b]) for b in "é😀".encode()), EOS.encode()]
    assert b"".join(pieces).decode() == text


async def test_offsets_are_places_in_the_text(stub: Any) -> None:
    text = f"é hello😀 w{EOS}日"
    (encoding,) = (await stub.Tokenize(tokenize(text, return_offsets=True))).encodings
    characters = [*zip(encoding.char_starts, encoding.char_ends, strict=True)]
    expected = [(0, 1)] * 2 + [(1, 2), (2, 7)] + [(7, 8)] * 4 + [(8, 10), (10, 23)] + [(23, 24)] * 3
    assert characters == expected
    in_bytes = zip(encoding.byte_starts, encoding.byte_ends, strict=True)
    for (start, end), (first, last) in zip(characters, in_bytes, strict=True):
        assert text.encode()[first:last] == text[start:end].encode()
    assert len(characters) == len(encoding.token_ids)


async def test_ids_become_texts_in_their_order(stub: Any) -> None:
    sequences: list[list[int]] = [[HELLO, EOS_ID], [], [*"é😀".encode(), 0xFF]]
    assert list((await stub.Detokenize(detokenize(*sequences))).texts) == ["hello", "", "é😀\ufffd"]
    reply = await stub.Detokenize(detokenize(*sequences, skip_special_tokens=False))
    assert reply.texts[0] == f"hello{EOS}"


async def test_long_texts_take_the_same_way(stub: Any) -> None:
    texts = [f"{number} hello wörld " * 400 for number in range(10)]
    reply = await stub.Tokenize(tokenize(*texts, return_pieces=True))
    assert [b"".join(e.pieces).decode() for e in reply.encodings] == texts
    sequences = [list(e.token_ids) for e in reply.encodings]
    assert list((await stub.Detokenize(detokenize(*sequences))).texts) == texts
    count = await stub.CountTokens(messages.CountTokensRequest(text=texts[0]))
    assert count.num_tokens == len(sequences[0])


async def test_ids_of_the_model_alone_have_no_text(tmp_path: Path) -> None:
    folder = save_byte_tokenizer(tmp_path)
    fingerprint = Tokenizer.from_folder(folder).fingerprint
    engine = FakeEngine(fingerprint=fingerprint, vocab_size=300)
    async with running(engine) as served, service(folder, served.address) as stub:
        assert list((await stub.Detokenize(detokenize([HELLO, 299]))).texts) == ["hello"]
        code, field = await error_of(stub.Detokenize(detokenize([1], [HELLO, 300])))
        assert (code, field) == (grpc.StatusCode.INVALID_ARGUMENT, "sequences[1]")


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        ("Tokenize", tokenize(), "texts"),
        ("Tokenize", tokenize(*["a"] * 1025), "texts"),
        ("Tokenize", tokenize("é" * 80_000, "é" * 80_000), "texts"),
        # 300,000 tokens of a byte with pieces and offsets do not fit into a message.
        ("Tokenize", tokenize("a" * 300_000, return_pieces=True, return_offsets=True), "texts"),
        ("Detokenize", detokenize(), "sequences"),
        ("Detokenize", detokenize(*[[1]] * 1025), "sequences"),
        ("Detokenize", detokenize([1] * 150_000, [1] * 150_001), "sequences"),
        ("Detokenize", detokenize([1], [VOCAB_SIZE]), "sequences[1]"),
        ("CountTokens", messages.CountTokensRequest(), "input"),
        ("CountTokens", messages.CountTokensRequest(text="a" * 300_001), "text"),
    ],
)
async def test_bad_requests_are_refused(stub: Any, method: str, request_: Any, field: str) -> None:
    assert await error_of(getattr(stub, method)(request_)) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        field,
    )


async def stream(stub: Any, *parts: Options | list[int]) -> list[tuple[str, int, str, bool]]:
    """What StreamDetokenize answers to options and to ids, as tuples."""
    call = stub.StreamDetokenize(requests(*parts), timeout=20)
    return [
        (answer.text, answer.num_token_ids, answer.stop_string, answer.finished)
        async for answer in call
    ]


def requests(*parts: Options | list[int]) -> list[messages.StreamDetokenizeRequest]:
    return [
        messages.StreamDetokenizeRequest(token_ids=Ids(ids=part))
        if isinstance(part, list)
        else messages.StreamDetokenizeRequest(options=part)
        for part in parts
    ]


async def test_each_message_of_ids_has_one_answer(stub: Any) -> None:
    emoji = [*"😀".encode()]
    assert await stream(stub, [HELLO, *emoji[:2]], [], emoji[2:], [EOS_ID, 0xF0]) == [
        ("hello", 3, "", False),
        ("", 3, "", False),
        ("😀", 5, "", False),
        ("", 7, "", False),
        ("\ufffd", 7, "", True),
    ]
    assert await stream(stub) == [("", 0, "", True)]


async def test_an_answer_comes_before_the_next_message(stub: Any) -> None:
    call = stub.StreamDetokenize(timeout=20)
    for word in (b"one ", b"two "):
        await call.write(requests([*word])[0])
        assert (await call.read()).text == word.decode()
    await call.done_writing()
    assert (await call.read()).finished
    assert await call.read() is grpc.aio.EOF


async def test_a_stop_string_ends_the_stream(stub: Any) -> None:
    options = Options(stop=["END"])
    call = stub.StreamDetokenize(timeout=20)
    for request in requests(options, [*b"one E"], [*b"ND two"]):
        await call.write(request)
    answers = [answer async for answer in call]  # though the caller has not half-closed
    assert [(a.text, a.num_token_ids, a.stop_string, a.finished) for a in answers] == [
        ("one ", 5, "", False),
        ("", 7, "END", True),
    ]
    options.include_stop_str_in_output = True
    assert (await stream(stub, options, [*b"one END two"])) == [("one END", 7, "END", True)]
    options.min_tokens = 7
    assert (await stream(stub, options, [*b"one END"], [*b"END"]))[-1] == ("END", 10, "END", True)


async def test_bytes_that_stay_open_may_complete_a_stop_string(stub: Any) -> None:
    answers = await stream(stub, Options(stop=["\ufffd"]), [*b"ab", 0xF0])
    assert answers == [("ab", 3, "", False), ("", 3, "\ufffd", True)]


async def test_a_sequence_may_go_on_with_another(stub: Any) -> None:
    emoji = [*"😀".encode()]
    options = Options(preceding_token_ids=[HELLO, *emoji[:3]], skip_special_tokens=False)
    assert (await stream(stub, options, [emoji[3], EOS_ID]))[0] == (f"😀{EOS}", 2, "", False)


async def test_many_ids_at_once(stub: Any) -> None:
    data = "hello wörld 😀 ".encode() * 500
    assert (await stream(stub, [*data[:9000]], [*data[9000:]]))[-1][1] == len(data)
    stopped = await stream(stub, Options(stop=["END", "x"] * 8), [*data, *b"END"])
    assert stopped == [(data.decode(), len(data) + 3, "END", True)]


@pytest.mark.parametrize(
    ("parts", "field"),
    [
        ([[1, VOCAB_SIZE]], "token_ids"),
        ([[1], [2**32 - 1]], "token_ids"),
        ([[1] * (MAX_PROMPT_BYTES + 1)], "token_ids"),
        ([[1], Options()], "options"),
        ([Options(), Options()], "options"),
        ([Options(stop=[""])], "options.stop[0]"),
        ([Options(stop=["a"] * 17)], "options.stop"),
        ([Options(preceding_token_ids=[VOCAB_SIZE])], "options.preceding_token_ids"),
    ],
)
async def test_a_bad_message_ends_the_stream(stub: Any, parts: list[Any], field: str) -> None:
    call = stub.StreamDetokenize(requests(*parts), timeout=20)
    assert await error_of(call) == (grpc.StatusCode.INVALID_ARGUMENT, field)


async def test_a_message_without_a_part_is_refused(stub: Any) -> None:
    call = stub.StreamDetokenize([messages.StreamDetokenizeRequest()], timeout=20)
    assert await error_of(call) == (grpc.StatusCode.INVALID_ARGUMENT, "part")


async def test_nothing_is_left_of_streams_whose_callers_went(stub: Any) -> None:
    await stream(stub, [1])
    num_tasks = len(asyncio.all_tasks())
    calls = [stub.StreamDetokenize() for _ in range(64)]
    for call in calls:
        await call.write(requests([*b"hello"])[0])
    assert {(await call.read()).text for call in calls} == {"hello"}
    for call in calls:
        call.cancel()
    async with asyncio.timeout(60):
        while len(asyncio.all_tasks()) > num_tasks:
            await asyncio.sleep(0)


async def files_of(stub: Any) -> dict[str, tuple[bytes, str]]:
    """Content and digest of every file, by name, as GetTokenizer sends them."""
    files: dict[str, tuple[bytes, str]] = {}
    async for chunk in stub.GetTokenizer(messages.GetTokenizerRequest()):
        assert len(chunk.data) <= 64 * 1024
        data, digest = files.pop(chunk.name, (b"", ""))
        assert digest == "", "a digest ends its file"
        files[chunk.name] = (data + chunk.data, chunk.sha256)
    return files


async def test_the_files_are_those_of_the_folder(tmp_path: Path) -> None:
    folder = save_byte_tokenizer(tmp_path)
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("x" * 64 * 1024)
    (folder / "merges.txt").write_text("")
    (folder / "vocab.json").write_text("é" * 100_000)
    (folder / "config.json").write_text("{}")
    async with service(folder) as stub:
        files = await files_of(stub)
    names = ["tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"]
    assert list(files) == [*names, "chat_template.jinja"]
    for name, (data, digest) in files.items():
        assert data == (folder / name).read_bytes()
        assert digest == hashlib.sha256(data).hexdigest()


async def test_files_that_are_not_the_services_any_more_are_refused(tmp_path: Path) -> None:
    async with service(save_byte_tokenizer(tmp_path)) as stub:
        file = tmp_path / "tokenizer.json"
        for change in (lambda: file.write_text("{}"), file.unlink):
            change()
            call = stub.GetTokenizer(messages.GetTokenizerRequest())
            assert await error_of(call) == (grpc.StatusCode.UNAVAILABLE, "")
