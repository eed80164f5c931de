"""The engine service in a process whose steps break: `python -m support.processes.breakable_engine
WAY FLAGS…` in tests/.

Once a request of more than one token is computed, the step hangs, with the interpreter's lock or
without, or raises what is no Exception.
"""

import ctypes
import sys
import threading

from engine_service.__main__ import main
from engine_service.core.outputs import ModelRunnerOutput, SchedulerOutput
from engine_service.runner.model_runner import TorchModelRunner


class Panic(BaseException):
    """As those of Rust."""


def hang() -> None:
    threading.Event().wait()


def hang_with_the_lock() -> None:
    ctypes.PyDLL(None).sleep(1000)


def panic() -> None:
    raise Panic("in a library")


WAYS = {each.__name__: each for each in (hang, hang_with_the_lock, panic)}


def break_steps(way: str) -> None:
    """Steps of this process, from the first with a prompt on."""
    execute = TorchModelRunner.execute

    def broken(runner: TorchModelRunner, output: SchedulerOutput) -> ModelRunnerOutput:
        if any(part.num_prompt_tokens > 1 for part in output.scheduled):
            WAYS[way]()
        return execute(runner, output)

    TorchModelRunner.execute = broken  # type: ignore[assignment, method-assign]


if __name__ == "__main__":
    break_steps(sys.argv.pop(1))
    sys.exit(main())
