"""QueuedEngine: an engine under a virtual clock, as far as its queue goes.

It runs so many sequences at once, each a token a step, and starts what waits in the queue's order.
The admission is the real one.
"""

import heapq
import random
from bisect import insort
from dataclasses import dataclass, field

from engine_service.overload.admission import Admission
from engine_service.overload.demand import Demand
from engine_service.overload.queue_limits import QueueLimits
from engine_service.overload.ticket import Ticket
from folovllm.errors import QueueFullError

LIMITS = QueueLimits(1024, 1024 * 1024, 2**26, 600.0, None, 2048)
STEP_SECONDS = 0.03


@dataclass(slots=True, eq=False)
class Caller:
    """One request, from its first arrival on."""

    name: str
    arrival: float
    num_prompt_tokens: int = 20
    num_tokens: int = 16
    n: int = 1
    patience: int = 0
    """How often it returns."""
    attempts: list[float] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)
    """What it was told after each attempt that was refused."""
    began: float | None = None
    """When its first token came."""
    num_ended: int = 0
    """Of its n sequences."""
    ended: float | None = None
    """When the last of them did."""

    @property
    def demand(self) -> Demand:
        """As an engine would count it."""
        num_bytes = 8 * self.num_prompt_tokens + 5632 + 1536 * self.n
        return Demand(num_bytes, self.num_prompt_tokens, self.n, self.num_tokens)


@dataclass(slots=True, eq=False)
class _Sequence:
    caller: Caller
    ticket: Ticket
    num_tokens: int = 0


class QueuedEngine:
    """Callers come and go as the clock runs."""

    def __init__(self, num_seats: int, limits: QueueLimits = LIMITS, seed: int = 0) -> None:
        self.admission = Admission(limits)
        self.callers: list[Caller] = []
        self.now = 0.0
        self._num_seats = num_seats
        self._waiting: list[tuple[float, int, _Sequence]] = []
        self._running: list[_Sequence] = []
        self._due: list[tuple[float, int, Caller]] = []
        self._number = 0
        self._random = random.Random(seed)

    def add(self, caller: Caller) -> None:
        """It will come at its arrival."""
        self.callers.append(caller)
        self._come(caller, caller.arrival)

    def run(self, until: float) -> None:
        """Lets the clock run."""
        while self.now < until:
            self.now += STEP_SECONDS
            while self._due and self._due[0][0] <= self.now:
                time, _, caller = heapq.heappop(self._due)
                self._attempt(caller, time)
            self._step()

    def _come(self, caller: Caller, time: float) -> None:
        self._number += 1
        heapq.heappush(self._due, (time, self._number, caller))

    def _attempt(self, caller: Caller, time: float) -> None:
        caller.attempts.append(time)
        try:
            ticket = self.admission.admit(caller.name, caller.demand, time, time)
        except QueueFullError as error:
            caller.delays.append(error.retry_after)
            if len(caller.delays) <= caller.patience:
                # A network takes time.
                self._come(caller, time + error.retry_after + self._random.uniform(0, 0.05))
            return
        place = ticket.arrival_time + ticket.handicap
        for _ in range(caller.n):
            self._number += 1
            insort(self._waiting, (place, self._number, _Sequence(caller, ticket)))

    def _step(self) -> None:
        while self._waiting and len(self._running) < self._num_seats:
            self._running.append(self._waiting.pop(0)[2])
        ends, num_tokens = self.now + STEP_SECONDS, 0
        for sequence in self._running:
            sequence.num_tokens += 1
            num_tokens += 1
            caller = sequence.caller
            if caller.began is None:
                caller.began = ends
                num_tokens += self.admission.begin(sequence.ticket, ends)
        for sequence in self._running:
            if sequence.num_tokens == sequence.caller.num_tokens:
                self._finish(sequence, ends)
        self._running = [s for s in self._running if s.num_tokens < s.caller.num_tokens]
        self.admission.step(ends, num_tokens, saturated=bool(self._waiting))

    def _finish(self, sequence: _Sequence, now: float) -> None:
        caller = sequence.caller
        caller.num_ended += 1
        if caller.num_ended == caller.n:
            caller.ended = now
            self.admission.end(sequence.ticket, now, caller.n * caller.num_tokens)
