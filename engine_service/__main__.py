"""Starts the engine service: `python -m engine_service --help`.

torchrun starts it as several processes that compute one model. The first is the service.
"""

import asyncio
import math
import os
import sys
from collections.abc import Coroutine

from folovllm.installation.parts import missing_line

# Before the imports that would fail.
if line := missing_line("engine"):
    sys.exit(f"error: {line}")

import structlog

from engine_service.config import SERVICE, EngineServiceConfig, parse_args
from engine_service.distributed.rank import Rank
from folovllm.errors import ConfigError, FolovError
from folovllm.serving.args import warn_of_unknown_variables
from folovllm.serving.background_tasks import start_background
from folovllm.serving.channel import ENGINE_SERVER_OPTIONS
from folovllm.serving.healthcheck import ENGINE_SERVICE
from folovllm.serving.logs import configure_logging, forward_logging
from folovllm.serving.memory.settling import collector_paused, settle_memory
from folovllm.serving.memory.upkeep import keep_memory_low
from folovllm.serving.output.standard_streams import exit_after_cleanup, exit_now
from folovllm.serving.ports import host_and_port
from folovllm.serving.server import GrpcServer, new_event_loop
from folovllm.v1 import engine_service_pb2_grpc

# Seconds for the last messages of an engine that has died, and for the last step of one that stops.
_DEATH_GRACE = 3.0
_STOP_LIMIT = 2.0

log: structlog.stdlib.BoundLogger = structlog.get_logger("engine_service")


async def serve(config: EngineServiceConfig, rank: Rank) -> int:
    """Runs the service until it is told to stop; returns the exit status. Raises ConfigError."""
    server = GrpcServer(config.server, ENGINE_SERVICE, ENGINE_SERVER_OPTIONS)
    port = server.bind()
    _set_libraries()
    # Imported after the port is ours: it imports torch, which takes a second.
    with collector_paused():
        from engine_service.distributed.launch import EngineRanks
        from engine_service.engine.async_engine import AsyncEngine
        from engine_service.engine.watchdog import Watchdog
        from engine_service.servicer import EngineServicer

    ranks = EngineRanks(config.engine, rank, config.watchdog.max_step_seconds)
    engine = AsyncEngine(
        ranks.build,
        config.engine.scheduler,
        ranks.step,
        config.watchdog.max_step_seconds,
    )
    ranks.on_lost = engine.fail
    watchdog = Watchdog(engine)
    engine_service_pb2_grpc.add_EngineServiceServicer_to_server(
        EngineServicer(engine, server.active_calls), server.grpc
    )
    await server.start()
    try:
        if not await _finishes_before_stop(engine.start(), server):
            exit_now(0)  # the thread that loads the model cannot be interrupted
        info = engine.info
        settle_memory()
        upkeep = start_background(keep_memory_low(), "memory")
        await server.set_serving(True)
        watchdog.start()
        log.info(
            "ready",
            address=host_and_port(config.server.host, port),
            model=info.model_id,
            device=info.device,
            ranks=rank.num_ranks,
            kernels=info.kernels,
            dtype=info.dtype,
            max_model_len=info.max_model_len,
            kv_tokens=info.num_kv_blocks * info.block_size,
        )
        await _finishes_before_stop(engine.wait_died(), server)
        upkeep.cancel()
    finally:
        # The streams of an engine that has died have ended.
        await server.drain(_DEATH_GRACE if engine.has_died else math.inf)
    died = engine.has_died
    watchdog.stop()
    # Requests that are left have had their time.
    if not await engine.stop(0.0 if server.ends_at_once or engine.num_requests else _STOP_LIMIT):
        exit_now(int(died))  # a step that does not end
    if not died:
        ranks.stop()
    return int(died)


def follow(config: EngineServiceConfig, rank: Rank) -> int:
    """Computes a part of the model until the first rank ends; returns the exit status.

    Raises ConfigError.
    """
    _set_libraries()
    with collector_paused():
        from engine_service.distributed.launch import EngineRanks

    try:
        EngineRanks(config.engine, rank, config.watchdog.max_step_seconds).follow()
    except ConfigError:
        raise
    except FolovError as error:
        log.error("the rank ends", rank=rank.index, reason=str(error))
        return 1
    return 0


def _set_libraries() -> None:
    """Sets what suits this process in libraries that are not loaded yet, unless it is set already.

    torch's threads meet at every operator; one that spins while it waits keeps its core from the
    event loop, the other service and the thread that it waits for. numpy's begin by spinning, and
    have nothing to multiply here. What else is installed for torch serves other devices.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")


async def _finishes_before_stop(work: Coroutine[None, None, None], server: GrpcServer) -> bool:
    """Awaits `work`; False if the server is told to stop first."""
    task = asyncio.ensure_future(work)
    stop = asyncio.ensure_future(server.wait_for_stop())
    await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    if task.done():
        task.result()
        return True
    task.cancel()
    return False


def main() -> int:
    """The process: parse, run, and say in one line why it could not start."""
    try:
        config = parse_args(sys.argv[1:])
        configure_logging(config.logs)
        forward_logging("engine_service", config.logs.log_level)
        rank = Rank.from_environment()
        if rank.index > 0:
            return follow(config, rank)
        warn_of_unknown_variables(config, SERVICE, log.warning)
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            return runner.run(serve(config, rank))
    except FolovError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    exit_after_cleanup(main())  # freeing all of torch would take half a second
