"""What Client and AsyncClient say of an address where no tokenizer service answers."""

import asyncio
import socket
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from folovllm import AsyncClient, Client
from folovllm.errors import (
    ClientClosedError,
    ConfigError,
    DeadlineError,
    FolovError,
    InvalidRequestError,
    UnreachableError,
    UnsupportedError,
    WrongServiceError,
)
from folovllm.serving.healthcheck import ENGINE_SERVICE, TOKENIZER_SERVICE
from folovllm.v1 import types_pb2
from support.fakes.tokenizer_service import MODEL_INFO, running_fake


@contextmanager
def grpc_server(*services: str) -> Iterator[str]:
    """A server of services that have nothing but GetModelInfo."""
    method = grpc.unary_unary_rpc_method_handler(
        lambda request, context: MODEL_INFO,
        request_deserializer=types_pb2.GetModelInfoRequest.FromString,
        response_serializer=types_pb2.ModelInfo.SerializeToString,
    )
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(name, {"GetModelInfo": method}) for name in services]
    )
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield address
    finally:
        server.stop(None).wait()


@contextmanager
def web_server() -> Iterator[str]:
    """Answers whatever comes as a web server answers what it does not understand."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
                connection.recv(1024)

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        thread.join(10)


def failure_of(address: str, kind: type[Client] | type[AsyncClient]) -> FolovError:
    """The error of a call, whose traceback shows no error of gRPC."""

    async def call() -> None:
        async with AsyncClient(address) as client:
            await client.generate("a")

    with pytest.raises(FolovError) as caught:
        if kind is Client:
            with Client(address) as client:
                client.generate("a")
        else:
            asyncio.run(call())
    shown = "".join(traceback.format_exception(caught.value))
    assert "RpcError" not in shown and "Rendezvous" not in shown
    return caught.value


both = pytest.mark.parametrize("kind", [Client, AsyncClient])


@both
def test_an_engine_is_named_and_says_what_it_serves(kind: Any) -> None:
    with grpc_server(ENGINE_SERVICE) as address:
        error = failure_of(address, kind)
        assert isinstance(error, WrongServiceError) and isinstance(error, ConfigError)
        assert str(error) == (
            f"at {address} is the engine service, which takes token ids; clients ask the tokenizer "
            "service, by default on port 50051"
        )
        with Client(address) as client:
            assert client.model_info().model_id == "fake"


async def test_an_engine_tells_the_async_client_what_it_serves() -> None:
    with grpc_server(ENGINE_SERVICE) as address:
        async with AsyncClient(address) as client:
            assert (await client.model_info()).model_id == "fake"


@both
def test_a_server_of_others_is_told(kind: Any) -> None:
    with grpc_server() as address:
        error = failure_of(address, kind)
        assert isinstance(error, WrongServiceError)
        assert str(error).startswith(f"at {address} is no FolovLLM service; clients ask")
        with Client(address) as client, pytest.raises(WrongServiceError, match="no FolovLLM"):
            client.model_info()


@both
def test_a_service_without_the_method_is_not_taken_for_another(kind: Any) -> None:
    with grpc_server(TOKENIZER_SERVICE) as address:
        error = failure_of(address, kind)
        assert type(error) is UnsupportedError


@both
def test_a_server_that_does_not_speak_grpc_is_told(kind: Any) -> None:
    with web_server() as address:
        error = failure_of(address, kind)
    assert isinstance(error, WrongServiceError)
    assert str(error).startswith(f"what answers at {address} does not speak gRPC; clients ask")


@both
def test_an_unknown_host_is_told(kind: Any) -> None:
    address = f"{'x' * 64}:50051"  # too long for a name, so that no name server is asked
    error = failure_of(address, kind)
    assert isinstance(error, UnreachableError)
    assert str(error).startswith(f"the host of {address} cannot be found (")


@both
def test_nothing_that_answers_is_told(kind: Any) -> None:
    with running_fake() as fake:
        address = fake.address
    error = failure_of(address, kind)
    assert isinstance(error, UnreachableError)
    assert str(error) == f"nothing answers at {address} (Connection refused)"


@both
@pytest.mark.parametrize("address", ["http://localhost:50051", "localhost", "localhost:99999", ""])
def test_what_is_no_address_is_refused_at_once(kind: Any, address: str) -> None:
    with pytest.raises(ConfigError, match="^address must be HOST:PORT; .* type localhost:50051$"):
        kind(address)


@both
def test_an_address_that_grpc_cannot_use_is_refused_by_a_call(kind: Any) -> None:
    error = failure_of("ipv4:localhost:1", kind)
    assert type(error) is ConfigError
    assert str(error) == "'ipv4:localhost:1' is no address that gRPC can use"


def test_a_time_out_says_how_long_it_was() -> None:
    with running_fake() as fake, Client(fake.address, timeout=0.1) as client:
        with pytest.raises(DeadlineError, match=r"^no complete answer within 0\.1 s$"):
            client.generate("forever")
        with pytest.raises(DeadlineError, match=r"^no complete answer within 0\.05 s$"):
            client.chat("forever", timeout=0.05)
        for timeout in (0, -1, "1", float("nan")):
            with pytest.raises(InvalidRequestError, match="^timeout must be a number of seconds "):
                client.generate("a", timeout=timeout)  # type: ignore[arg-type]


def test_a_closed_client_says_so() -> None:
    with running_fake() as fake:
        client = Client(fake.address)
        client.close()
        client.close()
        for call in (
            lambda: client.tokenize("a"),
            lambda: client.generate("a"),
            lambda: next(client.stream_chat("a")),
            lambda: next(client.stream_detokenize([[1]])),
        ):
            with pytest.raises(ClientClosedError, match="^the client is closed; open another$"):
                call()


async def test_a_closed_async_client_says_so() -> None:
    with running_fake() as fake:
        client = AsyncClient(fake.address)
        await client.close()
        await client.close()
        for call in (
            lambda: client.tokenize("a"),
            lambda: client.generate("a"),
            lambda: anext(client.stream_chat("a")),
            lambda: anext(client.stream_detokenize([[1]])),
        ):
            with pytest.raises(ClientClosedError, match="^the client is closed; open another$"):
                await call()
