"""Runs groups of sections, each in a process of its own, and never for longer than it may.

A process that hangs is ended, and one that dies, as after an illegal access of the device's memory,
is replaced by one that goes on behind the case that did it.
"""

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from benchmarks.gpu.line import Line
from benchmarks.gpu.messages import Began, Finished, Machine, Message, Task
from benchmarks.gpu.sections import SECTIONS
from benchmarks.gpu.worker import work

_STARTING_S = 90.0
_ENDING_S = 5.0
_NO_TIME = "left out: the run's time is over"

Worker = Callable[[Connection, Task], None]


@dataclass(slots=True)
class _Progress:
    """How far a task has come."""

    begun: set[tuple[str, str]]
    latest: Began | None = None
    finished: bool = False


def run_groups(
    groups: Sequence[Task], seconds: float, worker: Worker = work
) -> Iterator[Line | Machine]:
    """What the processes find, as they find it. Ends soon after so many seconds."""
    deadline = time.monotonic() + seconds
    for task in groups:
        yield from _run_task(task, deadline, worker)


def _run_task(task: Task, deadline: float, worker: Worker) -> Iterator[Line | Machine]:
    progress = _Progress(set(task.skipped))
    while not progress.finished:
        if time.monotonic() >= deadline:
            started = {section for section, _ in progress.begun}
            rest = [name for name in task.sections if name not in started]
            yield from (Line(name, "all", error=_NO_TIME) for name in rest)
            return
        progress.latest = None
        yield from _run_process(
            replace(
                task,
                seconds=deadline - time.monotonic(),
                skipped=frozenset(progress.begun),
            ),
            deadline,
            worker,
            progress,
        )
        if progress.latest is None and not progress.finished:
            reason = "the process ended before it began anything"
            yield from (Line(name, "all", error=reason) for name in task.sections)
            return


def _run_process(
    task: Task, deadline: float, worker: Worker, progress: _Progress
) -> Iterator[Line | Machine]:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=worker, args=(sender, task))
    process.start()
    sender.close()
    try:
        yield from _receive(receiver, deadline, progress)
    finally:
        receiver.close()
        _end(process, progress.finished)


def _receive(
    receiver: Connection, deadline: float, progress: _Progress
) -> Iterator[Line | Machine]:
    """Until the process has finished, died, or been silent for too long."""
    while not progress.finished:
        latest = progress.latest
        silence = SECTIONS[latest.section].silence_s if latest else _STARTING_S
        left = max(0.0, deadline - time.monotonic())
        if not receiver.poll(min(silence, left)):
            reason = f"given up after {silence:.0f} s" if silence < left else _NO_TIME
            yield from _blamed(latest, reason)
            return
        try:
            message: Message = receiver.recv()
        except (EOFError, OSError):
            # A case whose lines have all come may yet be what broke the device.
            yield from _blamed(latest, "the process ended")
            return
        if isinstance(message, Began):
            progress.latest = message
            progress.begun.add((message.section, message.case))
        elif isinstance(message, Finished):
            progress.finished = True
        else:
            yield message


def _blamed(latest: Began | None, reason: str) -> Iterator[Line]:
    if latest is not None:
        yield Line(latest.section, latest.case, error=reason)


def _end(process: BaseProcess, finished: bool) -> None:
    """Waits a moment for one that has finished; ends what is still there."""
    process.join(_ENDING_S if finished else 0.0)
    if process.is_alive():
        process.kill()
        process.join()
