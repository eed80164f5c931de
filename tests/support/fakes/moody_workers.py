"""Processes of the GPU benchmark that go wrong. They import no torch, and so start at once."""

import os
import signal
import time
from multiprocessing.connection import Connection

from benchmarks.gpu.line import Line
from benchmarks.gpu.messages import Began, Finished, Machine, Task

CASES = ("first", "dies", "hangs", "last")


def moody(connection: Connection, task: Task) -> None:
    """A process with one section, whose second case breaks it and whose third one hangs."""
    connection.send(Machine("a machine"))
    for case in CASES:
        if ("a", case) in task.skipped:
            continue
        connection.send(Began("a", case))
        if case == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if case == "hangs":
            time.sleep(60)
        connection.send(Line("a", case, 1.0))
    connection.send(Finished())


def stillborn(connection: Connection, task: Task) -> None:
    connection.close()
