"""Audit: is told what has ended, and hands it to the recorder and the verifier."""

import asyncio
from contextlib import suppress
from pathlib import Path

import structlog

from folovllm.errors import FolovError
from folovllm.v1 import types_pb2
from tokenizer_service.audit.finished import finished_requests
from tokenizer_service.audit.recorder import Recorder
from tokenizer_service.audit.tally import Tally
from tokenizer_service.audit.verifier import Verifier
from tokenizer_service.engines.pool import EnginePool
from tokenizer_service.engines.stream import EngineStream

log: structlog.stdlib.BoundLogger = structlog.get_logger("audit")


class Audit:
    """Of one process of the service. Belongs to the event loop that it is started in."""

    def __init__(self, record: str | None, share: float, tally: Tally) -> None:
        """Records to a file, if it is named, and verifies a share. Raises ConfigError."""
        self._recorder = Recorder(Path(record)) if record else None
        self._share = share
        self._tally = tally
        self._engines: EnginePool | None = None
        self._verifier: Verifier | None = None
        self._served = types_pb2.ModelInfo()

    def start(self, engines: EnginePool) -> None:
        """Begins; `take` may be called from now on, by these engines."""
        self._engines = engines
        if self._share > 0:
            self._verifier = Verifier(self._share, engines, self._tally)
            self._verifier.start()

    async def stop_verifying(self) -> None:
        """For a drain: leaves the engines to those who wait."""
        if self._verifier is not None:
            await self._verifier.close()
            self._verifier = None

    async def close(self) -> None:
        """Ends; the last records are written, if that is quick."""
        await self.stop_verifying()
        if self._recorder is not None:
            await asyncio.to_thread(self._recorder.close)

    def take(self, stream: EngineStream) -> None:
        """Takes a stream whose last output has come. Never raises."""
        if self._recorder is None and self._verifier is None:
            return
        try:
            self._take(stream)
        except Exception as error:
            log.error("audit failed", request_id=stream.name, exc_info=error)

    def descriptions(self) -> list[types_pb2.EngineState]:
        """What is known of each engine."""
        assert self._engines is not None
        descriptions = self._engines.descriptions()
        for each in descriptions:
            counts = self._tally.of(each.address)
            each.num_verified, each.num_differing = counts.num_verified, counts.num_differing
        return descriptions

    def _take(self, stream: EngineStream) -> None:
        assert self._engines is not None
        with suppress(FolovError):  # the last engine may have ended as soon as it was done
            self._served = self._engines.model_info()
        for finished in finished_requests(stream, self._served):
            if self._recorder is not None:
                self._recorder.put(finished)
            if self._verifier is not None:
                self._verifier.offer(finished)
