"""FrontEnd: a tokenizer service in this process, on a real socket, before engines anywhere."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc

from folovllm.serving.healthcheck import TOKENIZER_SERVICE
from folovllm.serving.server import GrpcServer, ServerConfig
from folovllm.v1 import tokenizer_service_pb2_grpc
from support.builders.engine_pools import until_ready
from tokenizer_service.engines.fingerprints import Fingerprints
from tokenizer_service.engines.pool import EnginePool
from tokenizer_service.model import TextModel
from tokenizer_service.servicer import TokenizerServicer


@dataclass
class FrontEnd:
    address: str
    pool: EnginePool
    server: GrpcServer
    stub: "tokenizer_service_pb2_grpc.TokenizerServiceAsyncStub"


@asynccontextmanager
async def front_end(
    model: TextModel, engines: Sequence[str], *, template_fingerprint: str = ""
) -> AsyncIterator[FrontEnd]:
    """`template_fingerprint` is that of the engines; fake ones have none."""
    expected = Fingerprints(model.tokenizer.fingerprint, template_fingerprint)
    pool = EnginePool(engines, expected)
    server = GrpcServer(ServerConfig(), TOKENIZER_SERVICE)
    tokenizer_service_pb2_grpc.add_TokenizerServiceServicer_to_server(
        TokenizerServicer(model.tokenizer, pool, 10_000, model.chat_template), server.grpc
    )
    address = f"127.0.0.1:{server.bind()}"
    await server.start()
    pool.start()
    try:
        await until_ready(pool)
        async with grpc.aio.insecure_channel(address) as channel:
            stub = tokenizer_service_pb2_grpc.TokenizerServiceStub(channel)
            yield FrontEnd(address, pool, server, stub)
    finally:
        await server.drain()
        await pool.close()
