"""AsyncEngine: one thread that owns the device, and the event loop that talks to it.

Commands go in through a blocking queue, so an idle engine uses no CPU. What a step brings comes
back in one hand-over to the event loop. If the thread fails, every stream ends with
EngineDeadError, and so does every later request.
"""

import asyncio
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import structlog

from engine_service.core.fork import Fork
from engine_service.core.request import Request
from engine_service.core.token_matcher import TokenMatcher
from engine_service.engine.interface import Engine
from engine_service.engine.llm_engine import EngineLoad
from engine_service.engine.output_stream import OutputStream
from folovllm.errors import (
    EngineDeadError,
    FolovError,
    InvalidRequestError,
    QueueFullError,
    UnavailableError,
)
from folovllm.model_info import ModelInfo
from folovllm.outputs import CompletionOutput
from folovllm.sampling_params import SamplingParams

log: structlog.stdlib.BoundLogger = structlog.get_logger("engine")


@dataclass(frozen=True, slots=True)
class _Abort:
    request_id: str
    indexes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class _Score:
    name: str
    requests: Sequence[Request]


class _Stop:
    """Ends the thread after the present step."""


class AsyncEngine:
    """Serves many callers at once. All methods belong to one event loop."""

    def __init__(self, build: Callable[[], Engine], max_num_waiting: int) -> None:
        """`build` is called on the engine's own thread, so that all device objects live there."""
        self._build = build
        self._max_num_waiting = max_num_waiting
        self._inbox: queue.SimpleQueue[Request | Fork | _Score | _Abort | _Stop] = (
            queue.SimpleQueue()
        )
        self._streams: dict[str, OutputStream] = {}
        self._num_waiting = 0
        self._engine: Engine | None = None
        self._info: ModelInfo | None = None
        self._default_sampling_params = SamplingParams()
        self._load = EngineLoad()
        self._load_watchers: set[Callable[[], None]] = set()
        self._died = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._ready: asyncio.Future[None] = self._loop.create_future()

    async def start(self) -> None:
        """Loads the model and warms up; raises what that raises."""
        self._thread.start()
        await self._ready

    @property
    def info(self) -> ModelInfo:
        """The model that is served. Raises UnavailableError until it is loaded."""
        if self._died.is_set():
            raise EngineDeadError("the engine has failed")
        if self._info is None:
            raise UnavailableError("the model is still loading")
        return self._info

    @property
    def default_sampling_params(self) -> SamplingParams:
        """What applies where a request leaves a parameter out."""
        return self._default_sampling_params

    async def make_matcher(self, params: SamplingParams) -> TokenMatcher | None:
        """See LLMEngine; neither the loop nor the engine's thread waits for it."""
        if not params.follows_grammar:
            return None
        assert self._engine
        return await asyncio.to_thread(self._engine.make_matcher, params)

    @property
    def load(self) -> EngineLoad:
        """How busy the engine was after its latest step."""
        return self._load

    @property
    def num_requests(self) -> int:
        """Requests that were taken and have not ended."""
        return len(self._streams)

    @property
    def num_admissible(self) -> int:
        """Requests that would still be taken."""
        return self._max_num_waiting - self._num_waiting

    @contextmanager
    def load_watched(self, changed: Callable[[], None]) -> Iterator[None]:
        """Calls `changed` where load, num_requests or num_admissible may have changed.

        After a step that comes once the step's outputs are in their streams.
        """
        self._load_watchers.add(changed)
        try:
            yield
        finally:
            self._load_watchers.remove(changed)

    def check_admissible(self, num_ahead: int = 0) -> None:
        """Raises QueueFullError where no more requests than `num_ahead` would be taken now."""
        if self.num_admissible <= num_ahead:
            raise QueueFullError(
                f"{self._num_waiting + num_ahead} requests wait for their first token already"
            )

    def generate(self, request: Request) -> OutputStream:
        """Takes a request; the caller reads the stream and calls `release` at the end of it.

        Raises QueueFullError, EngineDeadError, or InvalidRequestError where the id is in use.
        """
        stream = self._open(request.request_id, request.sampling_params.n)
        self._inbox.put(request)
        return stream

    def fork(self, fork: Fork) -> OutputStream:
        """Branches a running request; else as `generate`, with the fork's name.

        The stream raises NotFoundError where the parent does not run, and InvalidRequestError where
        a branch would be too long.
        """
        stream = self._open(fork.fork_id, len(fork.branches), "fork_id")
        self._inbox.put(fork)
        return stream

    def score(self, name: str, requests: Sequence[Request]) -> OutputStream:
        """Takes requests that only score, with a common prompt; else as `generate`.

        Each brings one output, by its place: the log-probabilities, with finish reason LENGTH.
        """
        stream = self._open(name, len(requests))
        self._inbox.put(_Score(name, requests))
        return stream

    def _open(self, name: str, num_outputs: int, field: str = "request_id") -> OutputStream:
        """Admits a call and makes its stream; `field` is where the caller gave the name."""
        assert self.info
        if name in self._streams:
            raise InvalidRequestError(field, f"{name} is running already")
        self.check_admissible()
        stream = OutputStream(name, num_outputs)
        self._streams[name] = stream
        self._num_waiting += 1
        self._tell_load()
        return stream

    def release(self, stream: OutputStream) -> None:
        """Says that no one reads a stream any more; ends its request where that still runs.

        The name is free again when the engine has let go of it.
        """
        stream.close()
        # A stream that has ended may have left its name to another.
        if self._streams.get(stream.name) is stream:
            self._inbox.put(_Abort(stream.name))

    def abort(self, request_id: str, indexes: Iterable[int] = ()) -> bool:
        """Ends a request, or some of its continuations, with finish reason ABORT.

        The stream gets their final outputs. False where no such request runs.
        """
        if request_id not in self._streams:
            return False
        self._inbox.put(_Abort(request_id, tuple(indexes)))
        return True

    async def wait_died(self) -> None:
        """Returns when the engine's thread has failed."""
        await self._died.wait()

    async def stop(self) -> None:
        """Ends the thread after its present step; running streams end with EngineDeadError."""
        self._inbox.put(_Stop())
        await asyncio.to_thread(self._thread.join)
        self._fail_all(EngineDeadError("the engine was stopped"))

    def _fail_all(self, error: EngineDeadError) -> None:
        self._died.set()
        for stream in self._streams.values():
            stream.fail(error)
        self._streams.clear()
        self._num_waiting = 0
        self._tell_load()

    def _tell_load(self) -> None:
        for changed in self._load_watchers:
            changed()

    def _set_ready(self, engine: Engine) -> None:
        self._engine = engine
        self._info = engine.info
        self._default_sampling_params = engine.default_sampling_params
        self._ready.set_result(None)

    def _deliver(self, outputs: list[CompletionOutput]) -> None:
        for output in outputs:
            stream = self._streams.get(output.request_id)
            if stream is None:
                continue
            self._num_waiting -= not stream.started
            stream.put(output)
            if stream.complete:
                del self._streams[output.request_id]
        self._tell_load()

    def _refuse(self, request_id: str, error: FolovError) -> None:
        """Ends the stream of a call that the engine does not take."""
        stream = self._streams.pop(request_id, None)
        if stream is not None:
            self._num_waiting -= 1
            stream.fail(error)
            self._tell_load()

    # From here on: the engine's thread.

    def _run(self) -> None:
        try:
            engine = self._build()
            engine.warm_up()
        except Exception as error:
            self._call(self._ready.set_exception, error)
            return
        self._load = engine.load()
        self._call(self._set_ready, engine)
        try:
            while self._take_commands(engine):
                outputs = engine.step()
                self._load = engine.load()
                self._call(self._deliver, outputs)
        except Exception:
            log.exception("the engine failed")
            self._call(self._fail_all, EngineDeadError("the engine has failed"))

    def _take_commands(self, engine: Engine) -> bool:
        """Takes in all commands, waiting for one where there is nothing to do; False to stop."""
        while True:
            try:
                command = self._inbox.get(block=not engine.has_unfinished_requests())
            except queue.Empty:
                return True
            if isinstance(command, _Stop):
                return False
            if isinstance(command, Fork):
                self._fork(engine, command)
            elif isinstance(command, _Score):
                engine.add_scores(command.name, command.requests)
            elif isinstance(command, _Abort):
                outputs = engine.abort_request(command.request_id, command.indexes)
                self._load = engine.load()
                self._call(self._deliver, outputs)
            else:
                engine.add_request(command)

    def _fork(self, engine: Engine, fork: Fork) -> None:
        try:
            engine.fork_request(fork)
        except FolovError as error:
            self._call(self._refuse, fork.fork_id, error)

    def _call(self, function: Callable[..., object], *arguments: object) -> None:
        """Runs a function on the event loop, unless that is closed and no one is left to tell."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)
