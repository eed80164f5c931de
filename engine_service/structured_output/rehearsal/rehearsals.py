"""Rehearsals: what it takes to build a grammar, found out where it harms nobody."""

import asyncio
import signal
from dataclasses import dataclass

from engine_service.structured_output.grammar_spec import GrammarSpec
from engine_service.structured_output.rehearsal.lanes import Lanes
from engine_service.structured_output.rehearsal.limits import RehearsalLimits
from engine_service.structured_output.rehearsal.messages import Outcome, Setting
from engine_service.structured_output.rehearsal.server_process import (
    ServerLostError,
    ServerProcess,
)
from folovllm.errors import QueueFullError, UnavailableError

# Of builders beside the process that forks them: a slow build matters less than a new one.
_FAST_NICENESS, _SLOW_NICENESS = 0, 5
# Seconds in which a process has to say that it has killed a builder.
_ANSWER_SECONDS = 5.0
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Passed:
    """The grammar can be served; building it takes this much, as measured."""

    seconds: float
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The grammar cannot be served; unless `lasting`, it may be another time."""

    message: str
    lasting: bool = True


class Rehearsals:
    """Has grammars built in builders' processes. Belongs to one event loop."""

    def __init__(self, setting: Setting, limits: RehearsalLimits) -> None:
        self._limits = limits
        self.server = ServerProcess(setting, limits.start_seconds)
        self.fast = Lanes(1, limits)
        self.slow = Lanes(limits.num_slow_lanes, limits)
        self._idle: asyncio.TimerHandle | None = None

    async def rehearse(self, spec: GrammarSpec, caller: str) -> Passed | Refused:
        """Builds it once. Raises QueueFullError, UnavailableError."""
        line = spec.encode()
        limits = self._limits
        outcome = await self._attempt(
            self.fast, line, caller, limits.fast_processor_seconds, _FAST_NICENESS
        )
        if outcome is None or outcome.signal == signal.SIGPROF:
            outcome = await self._attempt(
                self.slow, line, caller, limits.processor_seconds, _SLOW_NICENESS
            )
        if outcome is None:
            raise QueueFullError(
                "the grammar compiler gets too little of the processor",
                retry_after=limits.wall_seconds,
            )
        return self._verdict(outcome)

    def close(self) -> None:
        """Ends the processes."""
        if self._idle is not None:
            self._idle.cancel()
        self.server.close()

    async def _attempt(
        self, lanes: Lanes, line: str, caller: str, processor_seconds: float, niceness: int
    ) -> Outcome | None:
        """What has become of a build in one of the lanes; None if it took too long."""
        async with lanes.turn(caller, len(line)):
            for _ in range(2):
                try:
                    await self.server.start()
                    self._put_off_end()
                    async with asyncio.timeout(self._limits.wall_seconds):
                        return await self.server.build(line, processor_seconds, niceness)
                except ServerLostError:
                    continue  # whoever's fault it was, others may be at work there
                except TimeoutError:
                    self._expect_answer()
                    return None
        raise UnavailableError("the process that tries grammars is lost")

    def _verdict(self, outcome: Outcome) -> Passed | Refused:
        limits = self._limits
        if outcome.refusal is not None:
            return Refused(outcome.refusal)
        if outcome.signal == signal.SIGPROF:
            most = f"{limits.processor_seconds:g} s of processor time"
            return Refused(f"takes more than {most} to compile")
        if outcome.signal == signal.SIGABRT:
            most = f"{limits.memory_bytes // _MIB} MiB"
            return Refused(f"takes more than {most} to compile")
        if outcome.signal in (signal.SIGSEGV, signal.SIGBUS):
            return Refused("is nested too deeply for its compiler")
        if outcome.signal:
            return Refused("its compiler was killed", lasting=False)
        if outcome.num_bytes > limits.kept_bytes:
            return Refused(f"takes more than {limits.kept_bytes // _MIB} MiB once it is compiled")
        return Passed(outcome.seconds, outcome.num_bytes)

    def _expect_answer(self) -> None:
        """Closes a process that hangs: it has to say that it has killed a builder."""
        heard = self.server.num_outcomes

        def close_if_silent() -> None:
            if self.server.num_outcomes == heard:
                self.server.close()

        asyncio.get_running_loop().call_later(_ANSWER_SECONDS, close_if_silent)

    def _put_off_end(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        loop = asyncio.get_running_loop()
        self._idle = loop.call_later(self._limits.idle_seconds, self._end_if_idle)

    def _end_if_idle(self) -> None:
        if self.fast.num_running or self.slow.num_running:
            self._put_off_end()
        else:
            self.server.close()
