"""An engine service whose steps cost nothing: each sequence gets an id at every step.

    python -m benchmarks.services.wire_engine ROWS STEP_MILLISECONDS [quiet]

All but the model and the scheduler is the service's own. Quiet steps lead to nothing to tell, which
shows what is spent without. Once ROWS sequences run it prints "running".
"""

import asyncio
import sys
import time
from typing import Any

from engine_service.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from engine_service.core.outputs import ModelRunnerOutput, SchedulerOutput, SequenceOutput
from engine_service.engine.async_engine import AsyncEngine
from engine_service.engine.llm_engine import LLMEngine
from engine_service.servicer import EngineServicer
from folovllm.model_info import ModelInfo
from folovllm.serving.healthcheck import ENGINE_SERVICE
from folovllm.serving.server import GrpcServer, ServerConfig, new_event_loop
from folovllm.v1 import engine_service_pb2_grpc

_NUM_BLOCKS = 16_384
_TOKEN_ID = 150_000


class _Runner:
    def execute(self, output: SchedulerOutput) -> ModelRunnerOutput:
        """An id wherever one is drawn."""
        return ModelRunnerOutput([[_TOKEN_ID] * len(p.sample_indexes) for p in output.scheduled])


class _SteadyScheduler:
    """A scheduler until so many sequences run, and then their steps without its work."""

    def __init__(self, scheduler: Any, num_rows: int, step_seconds: float, quiet: bool) -> None:
        self._scheduler, self._num_rows = scheduler, num_rows
        self._step_seconds, self._quiet = step_seconds, quiet
        self._planned = SchedulerOutput(())
        self._changes: list[SequenceOutput] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scheduler, name)

    def schedule(self) -> SchedulerOutput:
        if not self._changes:
            planned: SchedulerOutput = self._scheduler.schedule()
            return planned
        time.sleep(self._step_seconds)
        return self._planned

    def update_from_output(
        self, planned: SchedulerOutput, result: ModelRunnerOutput
    ) -> list[SequenceOutput]:
        if self._changes:
            return [] if self._quiet else self._changes
        changes: list[SequenceOutput] = self._scheduler.update_from_output(planned, result)
        if len(changes) == self._num_rows:
            self._changes = [SequenceOutput(change.seq, (_TOKEN_ID,)) for change in changes]
            print("running", flush=True)
        return changes


async def main(num_rows: int, step_seconds: float, quiet: bool) -> None:
    """Serves until it is killed; prints its port once it does."""
    info = ModelInfo(
        "wire", vocab_size=200_000, max_model_len=100_000, num_kv_blocks=_NUM_BLOCKS, block_size=16
    )
    scheduling = SchedulerConfig(num_rows, 16_384, speculation="none", max_num_waiting=num_rows)
    config = EngineConfig(ModelConfig(), CacheConfig(16, _NUM_BLOCKS), scheduling)

    def build() -> LLMEngine:
        engine = LLMEngine(_Runner(), config, info)
        steady: Any = _SteadyScheduler(engine.scheduler, num_rows, step_seconds, quiet)
        engine.scheduler = steady
        return engine

    engine, server = AsyncEngine(build, scheduling), GrpcServer(ServerConfig(), ENGINE_SERVICE)
    engine_service_pb2_grpc.add_EngineServiceServicer_to_server(
        EngineServicer(engine, server.active_calls), server.grpc
    )
    port = server.bind()
    await server.start()
    await engine.start()
    await server.set_serving(True)
    print(port, flush=True)
    await server.wait_for_stop()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main(int(sys.argv[1]), float(sys.argv[2]) / 1e3, "quiet" in sys.argv))
