"""AsyncEngine: an engine on a thread of its own, for the event loop that talks to it.

Commands go to what drives the engine, and the outputs of a step come back in one callback. A
request that fails by itself ends with its own error. If the engine fails, or is given up, every
stream ends with EngineDeadError, and so does every later request.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial

from engine_service.config import SchedulerConfig
from engine_service.engine.commands import Abort, Matchers, StreamCommand
from engine_service.engine.driving.engine_driver import EngineDriver
from engine_service.engine.driving.engine_thread import EngineThread
from engine_service.engine.driving.engine_work import (
    EngineListener,
    EngineWork,
    Outcome,
    Step,
    step_alone,
)
from engine_service.engine.intake.command_demands import placed
from engine_service.engine.intake.open_streams import OpenStreams
from engine_service.engine.llm_engine import EngineLoad, LLMEngine
from engine_service.engine.matcher_maker import MatcherMaker
from engine_service.engine.output_stream import OutputStream
from engine_service.engine.step_clock import StepClock
from engine_service.host_memory import free_host_memory
from engine_service.overload.admission import Admission
from engine_service.overload.queue_limits import queue_limits
from engine_service.overload.ticket import Ticket
from folovllm.errors import EngineDeadError, QueueFullError, UnavailableError
from folovllm.model_info import ModelInfo
from folovllm.sampling_params import SamplingParams


class AsyncEngine:
    """Serves many callers at once. All methods belong to one event loop."""

    def __init__(
        self,
        build: Callable[[], LLMEngine],
        queue_config: SchedulerConfig | None,
        step: Step = step_alone,
        min_stuck_seconds: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
        *,
        driver: EngineDriver | None = None,
        matcher_maker: MatcherMaker | None = None,
    ) -> None:
        """The driver calls `build`, so that all device objects live where it works.

        `queue_config` says how long the queue may grow; None is without limits.
        `min_stuck_seconds` is the floor of the `step_clock`. `clock`, in seconds, is that of
        arrival times. The default driver is a thread of the engine's own.
        """
        self.clock = clock
        """In seconds; that of arrival times."""
        self.step_clock = StepClock(min_stuck_seconds, clock)
        self._queue_config = queue_config
        self._streams = OpenStreams(clock)
        self._engine: LLMEngine | None = None
        self._matcher_maker = matcher_maker or MatcherMaker()
        self._load = EngineLoad()
        self._load_watchers: set[Callable[[], None]] = set()
        self._died = asyncio.Event()
        self.dead_error: EngineDeadError | None = None
        """What every request ends with once the engine has failed or was stopped."""
        self._ready: asyncio.Future[LLMEngine] = asyncio.get_running_loop().create_future()
        self._driver = driver or EngineThread()
        self._work = EngineWork(
            build,
            step,
            EngineListener(
                started=self._set_started,
                start_failed=self._set_start_failed,
                scheduled=self._streams.set_scheduled,
                delivered=self._deliver,
                died=self._fail_all,
            ),
            self._driver.tell,
            clock=clock,
            step_clock=self.step_clock,
            max_queue_seconds=None if queue_config is None else queue_config.max_queue_seconds,
        )

    async def start(self) -> None:
        """Loads the model and warms up; raises what that raises."""
        self._driver.start(self._work)
        self._engine = await self._ready
        if self._queue_config is not None:
            limits = queue_limits(self._queue_config, self._engine.info, free_host_memory())
            self._streams.admission = Admission(limits)

    @property
    def info(self) -> ModelInfo:
        """The model that is served. Raises UnavailableError until it is loaded."""
        if self.dead_error is not None:
            raise EngineDeadError(str(self.dead_error), scheduled=False)
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
    def num_step_tokens(self) -> int:
        """Tokens of the step that is computed, or was the last. For any thread."""
        return self._engine.num_step_tokens if self._engine else 0

    @property
    def thread_id(self) -> int:
        """The identifier of the engine's thread, which has started."""
        return self._driver.thread_id

    @property
    def num_requests(self) -> int:
        """Requests that were admitted and have not ended."""
        return len(self._streams)

    @property
    def num_admitted(self) -> int:
        """Requests that were admitted since the start."""
        return self._streams.num_opened

    @property
    def num_generated_tokens(self) -> int:
        """Tokens that were generated since the start."""
        return self._streams.num_generated_tokens

    @property
    def num_admissible(self) -> int:
        """Requests like the latest ones that would still be admitted."""
        return self._streams.admission.num_admissible

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

    def reserve(self, command: StreamCommand) -> Ticket:
        """Admits a command that is to be submitted, or withdrawn.

        Raises QueueFullError, which says when it may come again, EngineDeadError, and
        InvalidRequestError if the name is in use.
        """
        ticket = self._streams.admit(command, self.info)
        self._notify_load_watchers()
        return ticket

    def withdraw(self, ticket: Ticket) -> None:
        """Gives back what was reserved, unless it was submitted."""
        if not ticket.submitted:
            self._streams.withdraw(ticket)
            self._notify_load_watchers()

    def check_admissible(self, num_ahead: int) -> None:
        """Raises QueueFullError if no more than `num_ahead` requests would be admitted now.

        For what cannot be reserved for, since it was not read to its end.
        """
        if self.num_admissible <= num_ahead:
            raise QueueFullError("too many requests wait already")

    async def make_matchers(self, command: StreamCommand, caller: str = "") -> Matchers:
        """Compiles the grammars of a command, blocking neither the loop nor the engine's thread.

        `caller` is whose turn it takes where grammars queue. Raises InvalidRequestError that names
        the field, QueueFullError, UnavailableError.
        """
        if not command.follows_grammar:
            return ()
        assert self._engine
        return await self._matcher_maker.make(self._engine, command, caller)

    def warm_up_grammars(self) -> None:
        """Begins what the first grammar would otherwise wait for, once the engine has started."""
        if self._engine is not None:
            self._matcher_maker.warm_up(self._engine)

    def submit(
        self, command: StreamCommand, matchers: Matchers = (), ticket: Ticket | None = None
    ) -> OutputStream:
        """Starts a command, with what `make_matchers` and `reserve` returned for it.

        The caller reads the stream and calls `release` at the end. Raises as `reserve`. The stream
        of a fork raises NotFoundError if the parent does not run, and InvalidRequestError if a
        branch would be too long. One that waits for too long raises QueueFullError.
        """
        info = self.info
        if ticket is None:
            ticket = self._streams.admit(command, info)
        stream = self._streams.open(command, ticket)
        self._notify_load_watchers()
        self._driver.put(placed(command, ticket), matchers)
        return stream

    def release(self, stream: OutputStream) -> None:
        """Ends the reading of a stream, and its request if that still runs.

        The name is free again once the engine has released it.
        """
        stream.close()
        # The name of a stream that has ended may belong to another by now.
        if self._streams.get(stream.name) is stream:
            self._driver.put(Abort(stream.name))

    @asynccontextmanager
    async def running(self, command: StreamCommand) -> AsyncIterator[OutputStream]:
        """`reserve`, `make_matchers` and `submit`; releases the stream at the end."""
        ticket = self.reserve(command)
        try:
            stream = self.submit(command, await self.make_matchers(command), ticket)
        finally:
            self.withdraw(ticket)
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
        self._driver.put(Abort(name, tuple(indexes)))
        return True

    @property
    def has_died(self) -> bool:
        """Whether the engine's thread has failed, or was given up or stopped."""
        return self._died.is_set()

    async def wait_died(self) -> None:
        """Returns when the engine's thread has failed."""
        await self._died.wait()

    def fail(self, reason: str) -> None:
        """Gives the engine's thread up, as if it had failed. For any thread."""
        self._driver.tell(self._fail_all, reason)

    def begin_to_stop(self) -> None:
        """Ends the thread after its present step; running streams end with EngineDeadError."""
        self._matcher_maker.close()
        self._driver.stop()

    async def stop(self, max_seconds: float = 10.0) -> bool:
        """Ends the thread, and returns when it has ended.

        False if its step has not ended after `max_seconds`. It lives on then, without streams.
        """
        self.begin_to_stop()
        ended = await self._driver.join(max_seconds)
        if not ended:
            self._fail_all("the engine was stopped")
        return ended

    def _fail_all(self, reason: str) -> None:
        if self.dead_error is not None:
            return
        self.dead_error = EngineDeadError(reason)
        if not self._ready.done():
            self._ready.set_exception(self.dead_error)
        self._died.set()
        self._streams.fail_all(partial(EngineDeadError, reason))
        self._notify_load_watchers()

    def _notify_load_watchers(self) -> None:
        for changed in self._load_watchers:
            changed()

    def _deliver(self, outcome: Outcome) -> None:
        self._load = outcome.load
        self._streams.deliver(outcome.outputs, saturated=outcome.load.num_waiting > 0)
        self._streams.fail(outcome.failures)
        self._notify_load_watchers()

    def _set_started(self, engine: LLMEngine, load: EngineLoad) -> None:
        self._load = load
        if not self._ready.done():
            self._ready.set_result(engine)

    def _set_start_failed(self, error: Exception) -> None:
        if not self._ready.done():
            self._ready.set_exception(error)
