"""VirtualLoop: an event loop whose clock jumps to whatever happens next.

Callbacks run in the order in which they became due, so a run depends on nothing but its inputs.
Each belongs to a `Process`, which can be frozen: what it would do then happens once it is thawed.
"""

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar

R = TypeVar("R")

_EPOCH = 1000.0


class StalledError(Exception):
    """Nothing is scheduled although somebody waits, or too much has happened."""


class Process:
    """What lives and dies together: the tasks that were started in it, and theirs."""

    def __init__(self, loop: "VirtualLoop", name: str) -> None:
        self.name = name
        self.is_frozen = False
        self.parked: list[asyncio.Handle] = []
        """What has become due while it was frozen."""
        self.tasks: dict[asyncio.Task[Any], None] = {}
        """Those that have not ended."""
        self._loop = loop
        self._context = copy_context()
        self._context.run(_process.set, self)

    def start(self, work: Coroutine[Any, Any, R], name: str = "") -> asyncio.Task[R]:
        """Runs a task in it."""
        return self._loop.create_task(work, name=name or None, context=self._context.copy())

    def call(self, function: Callable[..., R], *arguments: Any) -> R:
        """Calls a function as if one of its tasks did."""
        return self._context.copy().run(function, *arguments)

    def freeze(self) -> None:
        """Lets nothing of it run."""
        if not self.is_frozen:
            self.is_frozen = True
            self._loop.num_frozen += 1

    def thaw(self) -> None:
        """Lets it run on, beginning with what has become due."""
        if self.is_frozen:
            self.is_frozen = False
            self._loop.num_frozen -= 1
            self._loop.resume(self.parked)
            self.parked = []

    def kill(self) -> None:
        """Ends all its tasks."""
        self.thaw()
        for task in list(self.tasks):
            task.cancel()


_process: ContextVar[Process | None] = ContextVar("process", default=None)


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs callbacks at their times without waiting for them."""

    def __init__(self, max_callbacks: int) -> None:
        """After so many callbacks it raises StalledError."""
        super().__init__()
        self.num_frozen = 0
        """Processes that are."""
        self.num_callbacks = 0
        """How many have run."""
        self.errors: list[tuple[str, object]] = []
        """What callbacks have raised, and what was said about it."""
        self._max_callbacks = max_callbacks
        self._now = _EPOCH
        self._num_timers = 0
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._due: deque[asyncio.Handle] = self._ready  # type: ignore[attr-defined]
        self.set_task_factory(_new_task)  # type: ignore[arg-type]
        self.set_exception_handler(self._note_error)

    def time(self) -> float:
        """Seconds of the virtual clock."""
        return self._now

    def jump(self, seconds: float) -> None:
        """The clock goes on though nothing has run, as after the machine has slept."""
        self._now += seconds

    def resume(self, handles: list[asyncio.Handle]) -> None:
        """Runs callbacks that were parked, before what is due now."""
        self._due.extendleft(reversed(handles))

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """As in the base class; timers of the same time run in the order in which they were set."""
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        self._num_timers += 1
        heapq.heappush(self._timers, (when, self._num_timers, timer))
        return timer

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """There is one thread."""
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(  # type: ignore[override]
        self, executor: None, func: Callable[..., R], *args: Any
    ) -> "asyncio.Future[R]":
        """Runs it now."""
        future: asyncio.Future[R] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def run_all(self, work: Coroutine[Any, Any, R]) -> R:
        """What a task returns. Raises StalledError if nothing happens any more before."""
        try:
            return self.run_until_complete(work)
        finally:
            self._cancel_all()
            self.close()

    def _cancel_all(self) -> None:
        for _ in range(20):
            tasks = [task for task in asyncio.all_tasks(self) if not task.done()]
            if not tasks:
                return
            for task in sorted(tasks, key=lambda task: task.get_name()):
                task.cancel()
            self.num_callbacks = 0
            self.run_until_complete(asyncio.sleep(0))

    def _run_once(self) -> None:
        """One round: what is due, at the time of the next timer if nothing is."""
        due, timers = self._due, self._timers
        if not due:
            while timers and timers[0][2].cancelled():
                heapq.heappop(timers)
            if not timers:
                raise StalledError("nothing is scheduled any more")
            self._now = max(self._now, timers[0][0])
        while timers and timers[0][0] <= self._now:
            due.append(heapq.heappop(timers)[2])
        self.num_callbacks += len(due)
        if self.num_callbacks > self._max_callbacks:
            raise StalledError(f"over {self._max_callbacks} callbacks")
        for _ in range(len(due)):
            handle = due.popleft()
            if handle._cancelled or (self.num_frozen and _parked(handle)):
                continue
            handle._run()

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass  # it is passed over when its time comes

    def _note_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.errors.append((str(context.get("message")), context.get("exception")))

    def _process_events(self, event_list: object) -> None:
        pass

    def _write_to_self(self) -> None:
        pass


def _parked(handle: asyncio.Handle) -> bool:
    """Whether a callback's process is frozen, which then keeps it."""
    process = handle._context.get(_process)  # type: ignore[attr-defined]
    if process is None or not process.is_frozen:
        return False
    process.parked.append(handle)
    return True


def _new_task(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **options: Any
) -> asyncio.Task[Any]:
    task = asyncio.Task(work, loop=loop, **options)
    context = options.get("context")
    process = context.get(_process) if context is not None else _process.get()
    if process is not None:
        process.tasks[task] = None
        task.add_done_callback(process.tasks.pop)
    return task
