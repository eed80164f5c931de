"""Contender: an engine under measurement, as its own process, called from here."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Self

import psutil

from benchmarks.harness.batch_clock import Timing
from benchmarks.harness.open_loop import Arrival
from benchmarks.peers.contender_name import ContenderName
from benchmarks.peers.peer import FOREIGN, PEERS, PeerConfig
from folovllm.errors import FolovError

_ROOT = Path(__file__).parents[2]
_LOG_LINES = 15
# Threads that wait by spinning stop within a fraction of a second.
_IDLE_SECONDS, _IDLE_TIMEOUT = 0.05, 10.0


class ContenderError(FolovError):
    """An engine could not be opened, or ended."""


class Contender:
    """Methods wait for the answer and raise ContenderError where the process ended.

    Its processes run only in its turns. Some engines wake up a thousand times a second while they
    have nothing to do, and would interrupt whoever computes beside them.
    """

    def __init__(
        self, name: ContenderName, config: PeerConfig, python: str, checkout: Path = _ROOT
    ) -> None:
        """Returns when the engine is open; `ready_s` says after how many seconds.

        `checkout` is the folder whose code runs: by default this one.
        """
        self.name = name
        self._log = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115 - closed by close
        started = time.perf_counter()
        self._process = subprocess.Popen(
            [
                *(python, "-m", "benchmarks.peers.worker"),
                *(name.peer, json.dumps(asdict(config))),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=os.environ
            | {
                "PYTHONPATH": os.pathsep.join((str(checkout), str(checkout / "client"))),
                "OMP_NUM_THREADS": str(config.threads),
            },
        )
        try:
            opened = self._read()
        except BaseException:
            self.close()
            raise
        assert isinstance(opened, dict)
        self.version = str(opened["version"])
        self.ready_s = time.perf_counter() - started
        self._suspend()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """In its block the engine runs; it ends when the engine uses no processor time."""
        for process in self._family():
            process.resume()
        yield
        self._wait_idle()
        self._suspend()

    @property
    def pid(self) -> int:
        """Of the process that was started; it may have children."""
        return self._process.pid

    @property
    def is_peer(self) -> bool:
        """Whether the run can go on without it."""
        return self.name.peer in PEERS

    def generate(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> Timing:
        """See Peer."""
        timing = self._call("generate", prompts=prompts, new_tokens=new_tokens)
        assert isinstance(timing, dict)
        return Timing(**timing)

    def serve(self, arrivals: Sequence[Arrival]) -> list[list[float]]:
        """Of ours alone: takes each arrival in its time; the seconds at which its tokens came."""
        times = self._call(
            "serve", arrivals=[[a.time_s, a.prompt_token_ids, a.new_tokens] for a in arrivals]
        )
        assert isinstance(times, list)
        return times

    def resident_bytes(self) -> int:
        """Memory of the process and those that it started; what they share counts twice."""
        return sum(process.memory_info().rss for process in self._family())

    def close(self) -> None:
        """Ends the process."""
        for process in self._family():
            process.resume()
        if self._process.stdin and not self._process.stdin.closed:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
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

    def _call(self, method: str, **arguments: object) -> object:
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps({"method": method, "arguments": arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failure() from None
        return self._read()

    def _read(self) -> object:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise self._failure()
        value: object = json.loads(line)
        return value

    def _failure(self) -> ContenderError:
        self._process.wait()
        self._log.seek(0)
        last = "".join(self._log.readlines()[-_LOG_LINES:])
        return ContenderError(f"{self.name} ended; it last wrote:\n{last}")

    def _wait_idle(self) -> None:
        """Returns when the engine uses no processor time. Raises ContenderError if it never stops.

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
        """Its processes; none where it has ended."""
        if self._process.poll() is not None:
            return []
        process = psutil.Process(self._process.pid)
        return [process, *process.children(recursive=True)]

    def _cpu_seconds(self) -> float:
        times = [process.cpu_times() for process in self._family()]
        return sum(each.user + each.system for each in times)


@contextmanager
def open_contenders(
    names: Sequence[ContenderName],
    config: PeerConfig,
    pythons: Mapping[str, str],
    say: Callable[[str], None],
) -> Iterator[list[Contender]]:
    """Opens engines one after the other, each with its own weight format and Python.

    A peer that cannot be opened is left out, and `say` hears why.
    """
    with ExitStack() as stack:
        contenders = []
        for name in names:
            own = PeerConfig(**asdict(config) | {"weight_format": name.weight_format})
            python = pythons.get(name.peer, sys.executable)
            try:
                contenders.append(stack.enter_context(Contender(name, own, python)))
            except ContenderError as error:
                if name.peer not in PEERS:
                    raise
                say(f"{name} is left out: {error}")
        yield contenders


def missing(names: Sequence[ContenderName], pythons: Mapping[str, str]) -> dict[ContenderName, str]:
    """Why the environment of an engine lacks it, for those that it does."""
    reasons: dict[ContenderName, str] = {}
    for name in names:
        module = FOREIGN.get(name.peer, name.peer)
        python = pythons.get(name.peer)
        if name.peer in FOREIGN and python is None:
            reasons[name] = f"name its environment: --peer-python {name.peer}=…/bin/python"
        elif python is not None and not _can_import(python, module):
            reasons[name] = f"{python} has no {module}"
    return reasons


def _can_import(python: str, module: str) -> bool:
    probe = f"import importlib.util, sys; sys.exit(not importlib.util.find_spec({module!r}))"
    try:
        return subprocess.run([python, "-c", probe], check=False).returncode == 0
    except OSError:
        return False
