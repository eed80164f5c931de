"""Verifier: has a share of the requests computed again by another engine, and compares.

Engines of one numerics fingerprint give a request the same tokens. Where they do not, one of them
computes wrongly: memory, a processor or a file of it is damaged, and nothing else would tell. One
request at a time goes, after everything else, to an engine that is idle, and is given up as soon as
load comes.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from folovllm.errors import FolovError
from folovllm.request_id import new_request_id
from folovllm.serving.background_tasks import start_background
from tokenizer_service.audit.choice import is_chosen
from tokenizer_service.audit.finished import Finished
from tokenizer_service.audit.idleness import IdleTime, is_idle
from tokenizer_service.audit.rerun import Agreement, Mismatch, rerun_command
from tokenizer_service.audit.tally import Tally
from tokenizer_service.engines.client import EngineClient
from tokenizer_service.engines.pool import EnginePool
from tokenizer_service.engines.stream import EngineStream

# In the queue.
_MAX_REQUESTS = 64
_MAX_TOKENS = 1024 * 1024
# Seconds between two looks at the engines while something is to be verified.
_INTERVAL = 0.05
# Times that a request is begun.
_MAX_ATTEMPTS = 3

log: structlog.stdlib.BoundLogger = structlog.get_logger("verify")


@dataclass(slots=True)
class _Waiting:
    """A request to verify."""

    finished: Finished
    num_attempts: int = 0


class Verifier:
    """Belongs to one event loop."""

    def __init__(self, share: float, engines: EnginePool, tally: Tally) -> None:
        """Verifies this share of the requests that it is given."""
        self._share = share
        self._engines = engines
        self._tally = tally
        self._queue: deque[_Waiting] = deque()
        self._num_tokens = 0  # in the queue
        self._offered = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to verify."""
        self._task = start_background(self._run(), "verify")

    async def close(self) -> None:
        """Ends what runs, and forgets what waits."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._queue.clear()

    def offer(self, finished: Finished) -> None:
        """Takes what has ended, if it is to be verified, can be, and has room in the queue."""
        if not is_chosen(finished.request_id, self._share) or not finished.exact:
            return
        if len(self._queue) >= _MAX_REQUESTS or not self._others(finished):
            return
        if self._num_tokens + finished.num_tokens <= _MAX_TOKENS:
            self._add(_Waiting(finished))

    def _add(self, waiting: _Waiting) -> None:
        self._queue.append(waiting)
        self._num_tokens += waiting.finished.num_tokens
        self._offered.set()

    async def _run(self) -> None:
        while True:
            await self._offered.wait()
            await self._verify_next()
            if not self._queue:
                self._offered.clear()
            else:
                await asyncio.sleep(_INTERVAL)

    async def _verify_next(self) -> None:
        """Verifies the first request for which an engine is idle, if there is one."""
        for _ in range(len(self._queue)):
            waiting = self._queue.popleft()
            self._num_tokens -= waiting.finished.num_tokens
            others = self._others(waiting.finished)
            engine = next((each for each in others if is_idle(each.session.load)), None)
            if engine is not None:
                if not await self._verify(waiting.finished, engine):
                    waiting.num_attempts += 1
                    if waiting.num_attempts < _MAX_ATTEMPTS:
                        self._add(waiting)
                return
            if others:
                self._add(waiting)

    def _others(self, finished: Finished) -> Sequence[EngineClient]:
        """The engines that must give the same tokens, but for those that gave them.

        If all have, because it has moved, then all but the last.
        """
        like = [each for each in self._engines.engines if each.ready and _is_like(each, finished)]
        unused = [each for each in like if each.address not in finished.addresses]
        return unused or [each for each in like if each.address != finished.addresses[-1]]

    async def _verify(self, finished: Finished, engine: EngineClient) -> bool:
        """Whether both could be compared."""
        num_own = finished.info.sampling_params.n or 1
        idle_time = IdleTime.begin(engine.session.load, num_own)
        command = rerun_command(finished, f"verify-{new_request_id()}")
        comparing: asyncio.Task[Mismatch | None] | None = None
        try:
            with self._engines.generate_at(command, engine.address) as stream:
                comparing = asyncio.ensure_future(_compare(stream, Agreement(finished)))
                while not comparing.done():
                    await asyncio.wait([comparing], timeout=_INTERVAL)
                    has_time = engine.ready and not idle_time.is_over(engine.session.load)
                    if not comparing.done() and not has_time:
                        return False
                mismatch = comparing.result()
        except FolovError as error:
            log.debug("not verified", request_id=finished.request_id, reason=str(error))
            return False
        finally:
            if comparing is not None:
                comparing.cancel()
        self._count(finished, engine.address, mismatch)
        return True

    def _count(self, finished: Finished, verified_by: str, mismatch: Mismatch | None) -> None:
        for address in {*finished.addresses, verified_by}:
            self._tally.add(address, mismatch is not None)
        if mismatch is not None:
            # Ids would tell the text to whoever has the tokenizer.
            log.error(
                "engines differ",
                request_id=finished.request_id,
                branch=finished.branch_index,
                index=mismatch.index,
                position=mismatch.position,
                in_logprob_only=mismatch.is_logprob,
                engine=",".join(finished.addresses),
                verified_by=verified_by,
            )


def _is_like(engine: EngineClient, finished: Finished) -> bool:
    """Whether an engine must give the same tokens, and has room for as many."""
    fingerprint, info = finished.info.numerics_fingerprint, engine.model_info
    has_room = info.max_model_len >= finished.length
    return bool(fingerprint) and info.numerics_fingerprint == fingerprint and has_room


async def _compare(stream: EngineStream, agreement: Agreement) -> Mismatch | None:
    """Reads a stream until it ends or differs."""
    async for output in stream:
        if mismatch := agreement.check(output.index, stream.progress[output.index]):
            return mismatch
    return None
