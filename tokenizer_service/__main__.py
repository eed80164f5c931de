"""Starts the tokenizer service: `python -m tokenizer_service [--engine HOST:PORT ...]`."""

import asyncio
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from tempfile import TemporaryFile

from folovllm.installation.parts import missing_line

# Before the imports that would fail.
if line := missing_line("tokenizer"):
    sys.exit(f"error: {line}")

import structlog

from folovllm.errors import ConfigError
from folovllm.model_files import CONFIG_PATTERNS, resolve_model
from folovllm.serving.args import warn_of_unknown_variables
from folovllm.serving.background_tasks import first, start_background
from folovllm.serving.healthcheck import TOKENIZER_SERVICE
from folovllm.serving.logs import configure_logging
from folovllm.serving.memory.settling import keep_large_blocks_apart, settle_memory
from folovllm.serving.memory.upkeep import keep_memory_low
from folovllm.serving.ports import host_and_port, reserved_port
from folovllm.serving.server import GrpcServer, new_event_loop
from folovllm.v1.tokenizer_service_pb2_grpc import add_TokenizerServiceServicer_to_server
from tokenizer_service.config import TokenizerServiceConfig, parse_args
from tokenizer_service.engines.migration.numerics import Migrate
from tokenizer_service.engines.pool import EnginePool
from tokenizer_service.engines.replicas import Replicas
from tokenizer_service.model import TextModel
from tokenizer_service.servicer import TokenizerServicer
from tokenizer_service.workers.parent import WorkerLimits, Workers
from tokenizer_service.workers.worker import Heart

log: structlog.stdlib.BoundLogger = structlog.get_logger("tokenizer_service")


async def serve(
    config: TokenizerServiceConfig,
    model: TextModel,
    replicas: Replicas,
    heart: Heart | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT, then drains; the heart beats meanwhile.

    Raises ConfigError if the port is in use.
    """
    server = GrpcServer(config.server, TOKENIZER_SERVICE)
    migrate = Migrate(config.migrate)
    engines = EnginePool(config.engines, model.fingerprints, replicas, migrate=migrate)
    servicer = TokenizerServicer(
        model.tokenizer,
        engines,
        config.max_prompt_bytes,
        model.chat_template,
        config.max_rendering_seconds,
    )
    add_TokenizerServiceServicer_to_server(servicer, server.grpc)
    try:
        port = server.bind()
        await server.start()
        engines.start()
        beside = [start_background(_warm_up(servicer), "warm up and memory")]
        if heart is not None:
            beside.append(start_background(heart.keep_beating(), "heart"))
        log.info(
            "ready", address=host_and_port(config.server.host, port), engines=len(config.engines)
        )
        try:
            # A service that cannot tell its health any more must end.
            await first(server.wait_for_stop(), _follow_health(engines, server))
        finally:
            await server.drain()
            for task in beside:
                task.cancel()
    finally:
        await servicer.close()
        await engines.close()


async def _warm_up(servicer: TokenizerServicer) -> None:
    """Loads, in parallel to the first calls, what a conversation would wait for.

    Then it looks after the memory.
    """
    await servicer.warm_up()
    settle_memory()
    await keep_memory_low()


async def _follow_health(engines: EnginePool, server: GrpcServer) -> None:
    """SERVING while at least one engine is ready."""
    async for ready in engines.readiness():
        await server.set_serving(ready)


def run(
    config: TokenizerServiceConfig,
    model: TextModel,
    replicas: Replicas,
    heart: Heart | None = None,
) -> None:
    """Serves in this process; otherwise as serve."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(serve(config, model, replicas, heart))


def run_workers(config: TokenizerServiceConfig, model: TextModel) -> int:
    """Serves in several processes and returns the exit status. Raises ConfigError."""
    with (
        reserved_port(config.server.host, config.server.port) as port,
        TemporaryFile(buffering=0) as decision,
    ):
        server = replace(config.server, port=port, share_port=True)
        replicas = Replicas(config.expect_fingerprint, decision.fileno())
        work = partial(_work, replace(config, server=server), model, replicas)
        limits = WorkerLimits(server.hang_timeout, server.stop_timeout)
        return Workers(config.workers, work, limits).run()


def _work(
    config: TokenizerServiceConfig, model: TextModel, replicas: Replicas, heart: Heart
) -> int:
    configure_logging(config.logs, pid=os.getpid())
    run(config, model, replicas, heart)
    return 0


def main(argv: Sequence[str]) -> int:
    """Runs the service and returns the exit status."""
    try:
        config = parse_args(argv)
        keep_large_blocks_apart()
        configure_logging(config.logs, threaded=config.workers == 1)
        # A logger of its own: workers set up theirs anew before its first use.
        warn_of_unknown_variables(config, "", structlog.get_logger("variables").warning)
        model = TextModel.from_folder(resolve_model(config.model, CONFIG_PATTERNS))
        if config.workers > 1:
            return run_workers(config, model)
        run(config, model, Replicas(config.expect_fingerprint))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
