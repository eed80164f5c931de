"""Starts the tokenizer service: `python -m tokenizer_service [--engine HOST:PORT ...]`."""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import structlog

from folovllm.errors import ConfigError
from folovllm.model_files import CONFIG_PATTERNS, resolve_model
from folovllm.serving.healthcheck import TOKENIZER_SERVICE
from folovllm.serving.logs import configure_logging
from folovllm.serving.server import GrpcServer
from folovllm.v1.tokenizer_service_pb2_grpc import add_TokenizerServiceServicer_to_server
from tokenizer_service.chat_template import ChatTemplate
from tokenizer_service.config import TokenizerServiceConfig, parse_args
from tokenizer_service.engine_pool import EnginePool
from tokenizer_service.fingerprints import Fingerprints
from tokenizer_service.servicer import TokenizerServicer
from tokenizer_service.tokenizer import Tokenizer

log: structlog.stdlib.BoundLogger = structlog.get_logger("tokenizer_service")


async def serve(config: TokenizerServiceConfig, folder: Path) -> None:
    """Serves the model in `folder` until SIGTERM or SIGINT, then drains. Raises ConfigError."""
    tokenizer = Tokenizer.from_folder(folder)
    server = GrpcServer(config.server, TOKENIZER_SERVICE)
    engines = EnginePool(config.engines, Fingerprints.from_folder(folder))
    chat_template = ChatTemplate.from_folder(folder)
    servicer = TokenizerServicer(tokenizer, engines, config.max_prompt_bytes, chat_template)
    add_TokenizerServiceServicer_to_server(servicer, server.grpc)
    try:
        port = server.bind()
        await server.start()
        engines.start()
        warm_up = asyncio.create_task(servicer.warm_up())
        health = asyncio.create_task(_follow_health(engines, server))
        log.info("ready", address=f"{config.server.host}:{port}", engines=len(engines))
        await server.wait_for_stop()
        await server.drain()
        health.cancel()
        warm_up.cancel()
    finally:
        await engines.close()


async def _follow_health(engines: EnginePool, server: GrpcServer) -> None:
    """SERVING while at least one engine is ready."""
    async for ready in engines.readiness():
        await server.set_serving(ready)


def main(argv: Sequence[str]) -> int:
    """Runs the service and returns the exit status."""
    try:
        config = parse_args(argv)
        configure_logging(config.log_format)
        folder = resolve_model(config.model, CONFIG_PATTERNS)
        asyncio.run(serve(config, folder))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
