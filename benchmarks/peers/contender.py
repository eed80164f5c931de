"""Contender: an engine, or what else is measured, as its own process, called from here."""

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Self

import psutil

from benchmarks.harness.batch_clock import Timing
from benchmarks.harness.engine_name import EngineName
from benchmarks.harness.open_loop import Arrival
from benchmarks.peers.peer import PeerConfig
from folovllm.errors import FolovError

ROOT = Path(__file__).parents[2]
NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}
_LOG_LINES = 15
# Threads that wait by spinning stop within a fraction of a second.
_IDLE_SECONDS, _IDLE_TIMEOUT = 0.05, 10.0


class ContenderError(FolovError):
    """A process could not be opened, ended, or did not answer in time."""


class Contender:
    """What `benchmarks.peers.worker` opens. Calls wait for their answer; one that failed once must
    be closed. All of them raise ContenderError.

    Its processes run only in its turns. Some engines wake up a thousand times a second while they
    have nothing to do, and would interrupt whoever computes beside them.
    """

    def __init__(
        self,
        name: EngineName,
        config: PeerConfig,
        python: str = sys.executable,
        checkout: Path = ROOT,
        environment: Mapping[str, str] = NO_GPU,
        timeout: float | None = None,
    ) -> None:
        """Returns when it is open; `ready_s` says after how many seconds.

        `checkout` is the folder whose code runs: by default this one.
        """
        self.name = name
        self.timeout = timeout
        """Seconds until an answer is given up; may be changed between calls."""
        self._log = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115 - closed by close
        own = asdict(replace(config, weight_format=name.weight_format))
        paths = os.pathsep.join((str(checkout), str(checkout / "client")))
        started = time.perf_counter()
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.peers.worker", name.engine, json.dumps(own)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={
                **(os.environ | environment),
                "PYTHONPATH": paths,
                "PYTHONSAFEPATH": "1",  # else the folder we are in comes first
                "OMP_NUM_THREADS": str(config.threads),
            },
        )
        try:
            self.version = str(self._read()["version"])
        except BaseException:
            self.close(patience=0.0)
            raise
        self.ready_s = time.perf_counter() - started
        self._suspend()

    @property
    def pid(self) -> int:
        """Of the process that was started; it may have children."""
        return self._process.pid

    @contextmanager
    def turn(self) -> Iterator[None]:
        """In its block the engine runs; it ends when the engine uses no processor time."""
        self.resume()
        yield
        self._wait_idle()
        self._suspend()

    def resume(self) -> None:
        """Lets it run until the end of its next turn."""
        for process in self._family():
            process.resume()

    def call(self, method: str, **arguments: object) -> Any:
        """What the method returned."""
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps({"method": method, "arguments": arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failure() from None
        return self._read()

    def generate(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> Timing:
        """See Peer."""
        return Timing(**self.call("generate", prompts=prompts, new_tokens=new_tokens))

    def serve(self, arrivals: Sequence[Arrival], **options: object) -> list[list[float]]:
        """Of ours alone: starts each arrival in its time; the seconds at which its tokens came."""
        times: list[list[float]] = self.call("serve", arrivals=arrivals, **options)
        return times

    def resident_bytes(self) -> int:
        """Memory of the process and those that it started; what they share counts twice."""
        return sum(process.memory_info().rss for process in self._family())

    def close(self, patience: float = 30.0) -> None:
        """Ends the process, by force if it does not end by itself in so many seconds."""
        self.resume()
        if self._process.stdin and not self._process.stdin.closed:
            self._process.stdin.close()
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> Any:
        output = self._process.stdout
        assert output
        if not select.select([output], [], [], self.timeout)[0]:
            raise ContenderError(f"{self.name} gave no answer for {self.timeout:.0f} s")
        line = output.readline()
        if not line:
            raise self._failure()
        return json.loads(line)

    def _failure(self) -> ContenderError:
        self._process.wait()
        self._log.seek(0)
        last = "".join(self._log.readlines()[-_LOG_LINES:]).strip()
        return ContenderError(f"{self.name} ended; it last wrote:\n{last}")

    def _wait_idle(self) -> None:
        """Returns when the engine uses no processor time.

        Threads that spin after their work would slow the next engine.
        """
        deadline = time.monotonic() + _IDLE_TIMEOUT
        used = self._cpu_seconds()
        while True:
            time.sleep(_IDLE_SECONDS)
            before, used = used, self._cpu_seconds()
            if used - before <= _IDLE_SECONDS / 5:
                return
            if time.monotonic() > deadline:
                raise ContenderError(f"{self.name} keeps computing between its turns")

    def _suspend(self) -> None:
        for process in self._family():
            process.suspend()

    def _family(self) -> list[psutil.Process]:
        """Its processes; none if it has ended."""
        if self._process.poll() is not None:
            return []
        process = psutil.Process(self.pid)
        return [process, *process.children(recursive=True)]

    def _cpu_seconds(self) -> float:
        times = [process.cpu_times() for process in self._family()]
        return sum(each.user + each.system for each in times)


@contextmanager
def open_contenders(
    names: Sequence[EngineName],
    config: PeerConfig,
    pythons: Mapping[str, str],
    say: Callable[[str], None],
) -> Iterator[list[Contender]]:
    """Opens engines one after the other, each with its own weight format and Python.

    A peer that cannot be opened is left out, and `say` is told why.
    """
    with ExitStack() as stack:
        contenders = []
        for name in names:
            python = pythons.get(name.engine, sys.executable)
            try:
                contenders.append(stack.enter_context(Contender(name, config, python)))
            except (ContenderError, OSError) as error:
                if not name.is_peer:
                    raise
                say(f"{name} is left out: {error}")
        yield contenders
