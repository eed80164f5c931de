"""The process in which sections of the GPU benchmark run."""

import gc
import os
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection

import torch

from benchmarks.gpu.bench import Bench, BenchCase
from benchmarks.gpu.line import Line
from benchmarks.gpu.messages import Began, Finished, Machine, Message, Task
from benchmarks.gpu.plan import full, smoke
from benchmarks.gpu.sections import SECTIONS, Section
from benchmarks.harness import machine

_SHOWN_CALLS = 4


def work(connection: Connection, task: Task) -> None:
    """Measures the sections one after another, each case by itself; sends what it finds.

    Ends without Finished where the device can no longer be used.
    """
    if task.smoke:
        os.environ["TRITON_INTERPRET"] = "1"
    device = torch.device("cpu") if task.smoke else torch.device("cuda", 0)
    end = time.monotonic() + task.seconds
    bench = Bench(task.folder, device, smoke() if task.smoke else full())
    send: Callable[[Message], None] = connection.send
    send(Machine(_machine(device)))
    with torch.no_grad():
        for name in task.sections:
            if not _measure(SECTIONS[name], bench, task.skipped, end, send):
                return
    send(Finished())


def _measure(
    section: Section,
    bench: Bench,
    skipped: frozenset[tuple[str, str]],
    end: float,
    send: Callable[[Message], None],
) -> bool:
    """Whether the device can still be used afterwards; begins nothing that would pass `end`."""
    deadline = min(end, time.monotonic() + section.seconds)
    try:
        cases = section.cases(bench)
    except Exception as error:
        send(_failed(section.name, "all", error))
        return True
    for case in cases:
        if (section.name, case.name) in skipped:
            continue
        if time.monotonic() + case.expected_s > deadline:
            send(Line(section.name, case.name, error="left out: too little time is left"))
            continue
        send(Began(section.name, case.name))
        if not _run(section, case, bench, send):
            return False
    return True


def _run(section: Section, case: BenchCase, bench: Bench, send: Callable[[Message], None]) -> bool:
    """Whether the device can still be used afterwards."""
    try:
        for line in case.lines():
            send(line)
    except Exception as error:
        send(_failed(section.name, case.name, error))
        bench.drop_engine()
    gc.collect()
    if bench.device.type != "cuda":
        return True
    try:
        torch.cuda.synchronize(bench.device)
        torch.cuda.empty_cache()
    except RuntimeError:
        return False
    return True


def _failed(section: str, case: str, error: Exception) -> Line:
    traceback.print_exception(error, limit=-_SHOWN_CALLS)
    words = str(error).strip().partition("\n")[0]
    return Line(section, case, error=f"{type(error).__name__}: {words}")


def _machine(device: torch.device) -> str:
    if device.type != "cuda":
        return machine.describe()
    properties = torch.cuda.get_device_properties(device)
    memory = properties.total_memory / 2**30
    return f"{properties.name}, {memory:.0f} GiB; CUDA {torch.version.cuda}; {machine.describe()}"
