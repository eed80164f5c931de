"""Reflection on a real socket: what each of its versions tells real clients of both services."""

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha.reflection_pb2 import (
    ServerReflectionRequest,
    ServerReflectionResponse,
)

from folovllm.serving.healthcheck import ENGINE_SERVICE, TOKENIZER_SERVICE
from folovllm.serving.server import GrpcServer, ServerConfig
from folovllm.v1 import engine_service_pb2, tokenizer_service_pb2

VERSIONS = ["v1", "v1alpha"]
REFLECTIONS = [f"grpc.reflection.{version}.ServerReflection" for version in VERSIONS]
SERVICES = {
    service.full_name: service
    for file in (engine_service_pb2, tokenizer_service_pb2, health_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
}
HEALTH = health.SERVICE_NAME


@asynccontextmanager
async def serving(service: str, *, reflection: bool = True) -> AsyncIterator[str]:
    """The address of a server that has the schema of a service, and health."""
    server = GrpcServer(ServerConfig(reflection=reflection), service)
    address = f"127.0.0.1:{server.bind()}"
    await server.start()
    await server.set_serving(True)
    yield address
    await server.grpc.stop(None)


async def buf_curl(version: str, *arguments: str) -> str:
    buf = shutil.which("buf", path=str(Path(sys.executable).parent))
    assert buf, "buf-bin is one of the dev extra"
    process = await asyncio.create_subprocess_exec(
        *(buf, "curl", "--protocol=grpc", "--http2-prior-knowledge"),
        *(f"--reflect-protocol=grpc-{version}", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return output.decode()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("service", [TOKENIZER_SERVICE, ENGINE_SERVICE])
async def test_buf_curl_finds_every_method(service: str, version: str) -> None:
    async with serving(service) as address:
        found = set((await buf_curl(version, "--list-methods", f"http://{address}")).split())
    assert found == {
        *(f"{name}/{each.name}" for name in (service, HEALTH) for each in SERVICES[name].methods),
        *(f"{name}/ServerReflectionInfo" for name in REFLECTIONS),
    }


@pytest.mark.parametrize("version", VERSIONS)
async def test_buf_curl_calls_what_it_has_found(version: str) -> None:
    async with serving(TOKENIZER_SERVICE) as address:
        body = json.dumps({"service": TOKENIZER_SERVICE})
        url = f"http://{address}/{HEALTH}/Check"
        assert json.loads(await buf_curl(version, "--data", body, url)) == {"status": "SERVING"}


async def ask(address: str, version: str, **question: str) -> ServerReflectionResponse:
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=ServerReflectionRequest.SerializeToString,
            response_deserializer=ServerReflectionResponse.FromString,
        )([ServerReflectionRequest(**question)])  # type: ignore[arg-type]
        return await anext(aiter(call))


@pytest.mark.parametrize("version", VERSIONS)
async def test_each_version_knows_both_and_the_details_of_errors(version: str) -> None:
    async with serving(ENGINE_SERVICE) as address:
        listed = (await ask(address, version, list_services="")).list_services_response.service
        assert {each.name for each in listed} == {ENGINE_SERVICE, HEALTH, *REFLECTIONS}
        for symbol in (*REFLECTIONS, "google.rpc.BadRequest"):
            answer = await ask(address, version, file_containing_symbol=symbol)
            files = [
                FileDescriptorProto.FromString(data)
                for data in answer.file_descriptor_response.file_descriptor_proto
            ]
            assert symbol.rpartition(".")[0] in {file.package for file in files}
            names = [file.name for file in files]
            assert all(imported in names for file in files for imported in file.dependency)
            again = await ask(address, version, file_by_filename=names[0])
            assert again.file_descriptor_response == answer.file_descriptor_response
        unknown = await ask(address, version, file_containing_symbol="folovllm.v1.Nothing")
        assert unknown.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


@pytest.mark.parametrize("version", VERSIONS)
async def test_it_can_be_turned_off(version: str) -> None:
    async with serving(ENGINE_SERVICE, reflection=False) as address:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await ask(address, version, list_services="")
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
