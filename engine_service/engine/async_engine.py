"""AsyncEngine: one thread that owns the device, and the event loop that talks to it.

Commands go in through a blocking queue, so an idle engine uses no CPU. The outputs of a step reach
the event loop in one callback. If the thread fails, every stream ends with EngineDeadError, and so
does every later request.
"""

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress

import structlog

from engine_service.engine.commands import Abort, Command, Matchers, StreamCommand
from engine_service.engine.llm_engine import EngineLoad, LLMEngine
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

Step = Callable[[LLMEngine, Sequence[Command]], list[CompletionOutput]]
"""Steps an engine, which has applied these commands since its last step."""


def step_alone(engine: LLMEngine, commands: Sequence[Command]) -> list[CompletionOutput]:
    """The Step of an engine that has one rank."""
    return engine.step()


class AsyncEngine:
    """Serves many callers at once. All methods belong to one event loop."""

    def __init__(
        self, build: Callable[[], LLMEngine], max_num_waiting: int, step: Step = step_alone
    ) -> None:
        """The engine's own thread calls `build`, so that all device objects live there."""
        self._build = build
        self._max_num_waiting = max_num_waiting
        self._step = step
        # None stops the thread.
        self._inbox: queue.SimpleQueue[tuple[Command, Matchers] | None] = queue.SimpleQueue()
        self._streams: dict[str, OutputStream] = {}
        self._num_waiting = 0
        self.num_admitted = 0
        """Requests that were admitted since the start."""
        self.num_generated_tokens = 0
        """Tokens that were generated since the start."""
        self._engine: LLMEngine | None = None
        self._load = EngineLoad()
        self._load_watchers: set[Callable[[], None]] = set()
        self._died = asyncio.Event()
        self.dead_error: EngineDeadError | None = None
        """What every request ends with once the engine has failed or was stopped."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._ready: asyncio.Future[LLMEngine] = self._loop.create_future()

    async def start(self) -> None:
        """Loads the model and warms up; raises what that raises."""
        self._thread.start()
        self._engine = await self._ready

    @property
    def info(self) -> ModelInfo:
        """The model that is served. Raises UnavailableError until it is loaded."""
        if self.dead_error is not None:
            raise EngineDeadError(str(self.dead_error))
        if self._engine is None:
            raise UnavailableError("the model is still loading")
        return self._engine.info

    @property
    def default_sampling_params(self) -> SamplingParams:
        """The defaults of a request's parameters."""
        return self._engine.default_sampling_params if self._engine else SamplingParams()

    @property
    def load(self) -> EngineLoad:
        """How busy the engine was after its latest step."""
        return self._load

    @property
    def num_requests(self) -> int:
        """Requests that were admitted and have not ended."""
        return len(self._streams)

    @property
    def num_admissible(self) -> int:
        """Requests that would still be admitted."""
        return self._max_num_waiting - self._num_waiting

    @contextmanager
    def load_watched(self, changed: Callable[[], None]) -> Iterator[None]:
        """Calls `changed` when load, num_requests or num_admissible may have changed.

        After a step, it is called once the step's outputs are in their streams.
        """
        self._load_watchers.add(changed)
        try:
            yield
        finally:
            self._load_watchers.remove(changed)

    def check_admissible(self, num_ahead: int = 0) -> None:
        """Raises QueueFullError if no more than `num_ahead` requests would be admitted now."""
        if self.num_admissible <= num_ahead:
            raise QueueFullError(
                f"{self._num_waiting + num_ahead} requests wait for their first token already"
            )

    async def make_matchers(self, command: StreamCommand) -> Matchers:
        """Compiles the grammars of a command, blocking neither the loop nor the engine's thread.

        Raises InvalidRequestError that names the field, and QueueFullError.
        """
        if not command.follows_grammar:
            return ()
        assert self._engine
        return await asyncio.to_thread(command.make_matchers, self._engine)

    def submit(self, command: StreamCommand, matchers: Matchers = ()) -> OutputStream:
        """Starts a command, with what `make_matchers` returned for it.

        The caller reads the stream and calls `release` at the end. Raises QueueFullError,
        EngineDeadError, or InvalidRequestError if the name is in use. The stream of a fork raises
        NotFoundError if the parent does not run, and InvalidRequestError if a branch would be too
        long.
        """
        assert self.info
        name = command.name
        if name in self._streams:
            raise InvalidRequestError(command.name_field, f"{name} is running already")
        self.check_admissible()
        stream = self._streams[name] = OutputStream(name, command.num_outputs)
        self.num_admitted += 1
        self._num_waiting += 1
        self._notify_load_watchers()
        self._inbox.put((command, matchers))
        return stream

    def release(self, stream: OutputStream) -> None:
        """Ends the reading of a stream, and its request if that still runs.

        The name is free again once the engine has released it.
        """
        stream.close()
        # The name of a stream that has ended may belong to another by now.
        if self._streams.get(stream.name) is stream:
            self._inbox.put((Abort(stream.name), ()))

    @asynccontextmanager
    async def running(self, command: StreamCommand) -> AsyncIterator[OutputStream]:
        """`make_matchers` and `submit`; releases the stream at the end."""
        stream = self.submit(command, await self.make_matchers(command))
        try:
            yield stream
        finally:
            self.release(stream)

    def abort(self, name: str, indexes: Iterable[int] = ()) -> bool:
        """Ends a request, or some of its continuations, with finish reason ABORT.

        The stream gets their final outputs. False if no such request runs.
        """
        if name not in self._streams:
            return False
        self._inbox.put((Abort(name, tuple(indexes)), ()))
        return True

    async def wait_died(self) -> None:
        """Returns when the engine's thread has failed."""
        await self._died.wait()

    def begin_to_stop(self) -> None:
        """Ends the thread after its present step; running streams end with EngineDeadError."""
        self._inbox.put(None)

    async def stop(self) -> None:
        """Ends the thread, and returns when it has ended."""
        self.begin_to_stop()
        await asyncio.to_thread(self._thread.join)

    def _fail_all(self, error: EngineDeadError) -> None:
        self.dead_error = error
        self._died.set()
        for stream in self._streams.values():
            stream.fail(error)
        self._streams.clear()
        self._num_waiting = 0
        self._notify_load_watchers()

    def _notify_load_watchers(self) -> None:
        for changed in self._load_watchers:
            changed()

    def _deliver(self, outputs: list[CompletionOutput]) -> None:
        for output in outputs:
            self.num_generated_tokens += len(output.token_ids)
            stream = self._streams.get(output.request_id)
            if stream is None:
                continue
            self._num_waiting -= not stream.started
            stream.put(output)
            if stream.complete:
                del self._streams[output.request_id]
        self._notify_load_watchers()

    def _refuse(self, name: str, error: FolovError) -> None:
        """Ends the stream of a command that the engine refuses."""
        stream = self._streams.pop(name, None)
        if stream is not None:
            self._num_waiting -= 1
            stream.fail(error)
            self._notify_load_watchers()

    # From here on: the engine's thread.

    def _run(self) -> None:
        try:
            engine = self._build()
            engine.warm_up()
        except Exception as error:
            self._call_soon(self._ready.set_exception, error)
            return
        self._load = engine.load()
        self._call_soon(self._ready.set_result, engine)
        try:
            while (commands := self._apply_commands(engine)) is not None:
                outputs = self._step(engine, commands)
                self._load = engine.load()
                self._call_soon(self._deliver, outputs)
            self._call_soon(self._fail_all, EngineDeadError("the engine was stopped"))
        except Exception:
            log.exception("the engine failed")
            self._call_soon(self._fail_all, EngineDeadError("the engine has failed"))

    def _apply_commands(self, engine: LLMEngine) -> list[Command] | None:
        """Applies all commands, waiting for one if there is nothing to do; None to stop.

        Returns those that the engine did not refuse.
        """
        applied: list[Command] = []
        while True:
            try:
                item = self._inbox.get(block=not engine.has_unfinished_requests())
            except queue.Empty:
                return applied
            if item is None:
                return None
            command, matchers = item
            try:
                outputs = command.apply(engine, matchers)
            except FolovError as error:
                self._call_soon(self._refuse, command.name, error)
                continue
            applied.append(command)
            if outputs:
                self._load = engine.load()
                self._call_soon(self._deliver, outputs)

    def _call_soon(self, function: Callable[..., object], *arguments: object) -> None:
        """Calls a function on the event loop, unless that is closed and nobody is left to tell."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)
