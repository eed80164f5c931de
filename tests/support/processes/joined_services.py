"""JoinedServices: both services in this process, each on a real socket, with a fake model."""

import asyncio

import grpc

from engine_service.config import SchedulerConfig
from engine_service.engine.async_engine import AsyncEngine
from engine_service.engine.llm_engine import LLMEngine
from engine_service.servicer import EngineServicer
from folovllm.serving.healthcheck import ENGINE_SERVICE, TOKENIZER_SERVICE
from folovllm.serving.server import GrpcServer, ServerConfig
from folovllm.v1 import engine_service_pb2_grpc, tokenizer_service_pb2_grpc
from support.builders.engine_pools import until_ready
from support.fakes.model_runner import FakeModelRunner
from support.integrity import check_integrity
from tokenizer_service.chat.template import ChatTemplate
from tokenizer_service.engines.fingerprints import Fingerprints
from tokenizer_service.engines.pool import EnginePool
from tokenizer_service.servicer import TokenizerServicer
from tokenizer_service.text.tokenizer import Tokenizer


class JoinedServices:
    def __init__(
        self,
        llm_engine: LLMEngine,
        runner: FakeModelRunner,
        tokenizer: Tokenizer,
        chat_template: ChatTemplate | None = None,
        max_prompt_bytes: int = 10_000,
        max_num_waiting: int = 100,
    ) -> None:
        """`runner` is that of the engine."""
        self.llm_engine = llm_engine
        self.runner = runner
        queue_config = SchedulerConfig(max_num_waiting=max_num_waiting)
        self.engine = AsyncEngine(lambda: llm_engine, queue_config)
        self.engine_server = GrpcServer(ServerConfig(), ENGINE_SERVICE)
        engine_service_pb2_grpc.add_EngineServiceServicer_to_server(
            EngineServicer(self.engine, self.engine_server.active_calls), self.engine_server.grpc
        )
        address = f"127.0.0.1:{self.engine_server.bind()}"
        self.pool = EnginePool([address], Fingerprints(tokenizer.fingerprint, ""))
        self.server = GrpcServer(ServerConfig(), TOKENIZER_SERVICE)
        tokenizer_service_pb2_grpc.add_TokenizerServiceServicer_to_server(
            TokenizerServicer(tokenizer, self.pool, max_prompt_bytes, chat_template),
            self.server.grpc,
        )
        self.address = f"127.0.0.1:{self.server.bind()}"
        self.channel = grpc.aio.insecure_channel(self.address)
        self.stub: tokenizer_service_pb2_grpc.TokenizerServiceAsyncStub = (
            tokenizer_service_pb2_grpc.TokenizerServiceStub(self.channel)
        )

    async def start(self) -> None:
        await self.engine_server.start()
        await self.engine.start()
        await self.engine_server.set_serving(True)
        self.pool.start()
        await until_ready(self.pool)
        await self.server.start()

    async def stop(self) -> None:
        self.runner.release()
        await self.channel.close()
        await self.server.drain()
        await self.pool.close()
        await self.engine_server.drain()
        await self.engine.stop()
        check_integrity(self.llm_engine.scheduler)

    async def until_running(self) -> None:
        while not self.engine.num_requests:
            await asyncio.sleep(0)

    async def until_free(self, num_blocks: int) -> None:
        """Returns when no request runs and all blocks are free; pytest's timeout bounds it."""
        while self.engine.num_requests or self.engine.load.num_free_kv_blocks != num_blocks:
            await asyncio.sleep(0)
