"""Admission: which requests an engine takes on, and when those that it refuses may return.

A request is refused if with it too many would wait, or too much work, or all of them would hold too
much memory, or it could hardly start in time at the speed at which the engine works. A burst may
fill the queue; one that stays long is kept short. Whatever the limits are, a request runs if
nothing is before it.
"""

from dataclasses import dataclass

from engine_service.overload.demand import Demand
from engine_service.overload.queue_limits import QueueLimits
from engine_service.overload.recent_mean import RecentMean
from engine_service.overload.refused_requests import RefusedRequests, Turn
from engine_service.overload.standing_queue import StandingQueue
from engine_service.overload.turns import Turns
from engine_service.overload.work_rate import WorkRate
from folovllm.errors import QueueFullError

# The part of each limit that newcomers may use while others have a turn to return at.
_NEWCOMERS_SHARE = 0.625
# Tokens that a sequence generates, before any has ended.
_FIRST_GUESS = 64.0
# Seconds that may pass until a request starts while more comes than goes, unless one runs longer.
_TARGET_SECONDS = 2.0
# Seconds until there may be room, while nothing tells.
_UNKNOWN_WAIT = 1.0
# What is told of numbers without a limit.
_MANY = 2**31 - 1


@dataclass(slots=True, eq=False)
class Ticket:
    """An admitted request, until it has ended."""

    demand: Demand
    num_tokens: float
    """Its work, as it is reckoned with."""
    arrival_time: float
    """When it came for the first time; it waits behind what came before."""
    submitted: bool = False
    """Whether the engine has it; before that it can be withdrawn."""
    began: float | None = None
    """When its first output came."""
    ended: bool = False


class Admission:
    """Of one engine. Whoever asks tells it what becomes of each ticket, and of every step."""

    def __init__(self, limits: QueueLimits) -> None:
        self._limits = limits
        self._rate = WorkRate()
        self._queue = StandingQueue()
        self._turns = Turns()
        self._refused = RefusedRequests()
        self._output_tokens = RecentMean(_FIRST_GUESS)  # of a sequence
        self._run_seconds = RecentMean(0.0)  # from the first output to the end
        self._offered_tokens = RecentMean(_FIRST_GUESS)
        self._offered_bytes = RecentMean(0.0)
        self._num_tickets = 0
        self._num_bytes = 0
        self._num_tokens = 0.0  # of those that wait
        self.num_waiting = 0
        """Requests that were admitted and have no output yet."""

    def admit(self, name: str, demand: Demand, arrival_time: float, now: float) -> Ticket:
        """Takes a request on. Raises QueueFullError with the time that is left until its turn.

        One that comes before its turn keeps it. One that comes later than its turn is good for, or
        asks for more than then, is like any that comes for the first time.
        """
        num_tokens = demand.num_tokens(self._output_tokens.value)
        self._offered_tokens.add(num_tokens)
        self._offered_bytes.add(demand.num_bytes)
        self._update_queue(now)
        turn = self._refused.find(name, now)
        if turn is not None and not demand.is_within(turn.demand):
            turn = None
        if turn is not None and now < turn.time and self.num_waiting:
            raise self._refusal(turn.time - now)
        wait = self._wait(demand, num_tokens, self._share(turn))
        if wait > 0:
            arrival_time = arrival_time if turn is None else turn.arrival
            raise self._refusal(self._book(name, demand, num_tokens, arrival_time, wait, now))
        self._refused.forget(name)
        if turn is not None:
            arrival_time = min(arrival_time, turn.arrival)
        self._num_tickets += 1
        self.num_waiting += 1
        self._num_bytes += demand.num_bytes
        self._num_tokens += num_tokens
        return Ticket(demand, num_tokens, arrival_time)

    def begin(self, ticket: Ticket, now: float) -> int:
        """Its first output has come. Returns the work that this was: its prompt's tokens."""
        self._leave_queue(ticket, now)
        return ticket.demand.num_prompt_tokens

    def end(self, ticket: Ticket, now: float, num_output_tokens: int | None = None) -> None:
        """It holds nothing any more; only the first time has an effect.

        `num_output_tokens` is how many it has generated, if it was not ended before its time.
        """
        if ticket.ended:
            return
        ticket.ended = True
        self._num_tickets -= 1
        self._num_bytes -= ticket.demand.num_bytes
        if ticket.began is None:
            self._leave_queue(ticket, now)
        elif num_output_tokens is not None and ticket.demand.max_tokens:
            self._output_tokens.add(num_output_tokens / ticket.demand.num_sequences)
            self._run_seconds.add(now - ticket.began)

    def step(self, now: float, num_tokens: float, saturated: bool) -> None:
        """The engine has done so much work; `saturated` is whether it could not start all."""
        self._rate.step(now, num_tokens, saturated)
        self._update_queue(now)

    def give_up(self, name: str, ticket: Ticket, now: float) -> float:
        """The seconds after which a request may return that has waited too long."""
        demand, num_tokens = ticket.demand, ticket.num_tokens
        wait = max(self._wait(demand, num_tokens, _NEWCOMERS_SHARE), _UNKNOWN_WAIT)
        return self._book(name, demand, num_tokens, ticket.arrival_time, wait, now)

    @property
    def num_admissible(self) -> int:
        """Requests like the latest ones that would be admitted now, if they came first."""
        share, limits = self._share(None), self._limits
        num_tokens = max(1.0, self._offered_tokens.value)
        num_bytes = max(1.0, self._offered_bytes.value)
        share_of_size = share * self._size_share(num_tokens)
        number = min(
            self._max_num_waiting(share) - self.num_waiting,
            (limits.max_num_bytes * share_of_size - self._num_bytes) / num_bytes,
            (self._max_num_tokens(share_of_size) - self._num_tokens) / num_tokens,
        )
        at_least = 0 if self.num_waiting else 1
        return max(at_least, int(min(number, _MANY)))

    def _share(self, turn: Turn | None) -> float:
        """The part of each limit that a request may use, by whether it returns."""
        is_contested = self.num_waiting and len(self._refused)
        return _NEWCOMERS_SHARE if turn is None and is_contested else 1.0

    def _size_share(self, num_tokens: float) -> float:
        """The part of each limit that a request of this size may use: it leaves room for others."""
        return min(1.0, self._limits.ordinary_num_tokens / max(1.0, num_tokens))

    def _max_num_waiting(self, share: float) -> float:
        return max(1, self._limits.max_num_waiting * share)

    def _max_num_tokens(self, share: float) -> float:
        """Work that may wait, by the limit of it and by how long it would take."""
        most, rate = self._limits.max_num_tokens, self._rate.per_second
        if rate is not None:
            most = min(most, rate * self._max_seconds)
        return most * share

    @property
    def _max_seconds(self) -> float:
        return self._target_seconds if self._queue.stands else self._limits.max_seconds

    @property
    def _target_seconds(self) -> float:
        given = self._limits.target_seconds
        if given is None:
            given = max(_TARGET_SECONDS, self._run_seconds.value)
        return min(given, self._limits.max_seconds)

    def _wait(self, demand: Demand, num_tokens: float, share: float) -> float:
        """Seconds until there will be room for a request; 0 if there is."""
        share_of_size = share * self._size_share(num_tokens)
        waits = [0.0]
        if self._num_tickets:
            num_bytes = self._num_bytes + demand.num_bytes
            if num_bytes > self._limits.max_num_bytes * share_of_size:
                waits.append(_UNKNOWN_WAIT)
        if self.num_waiting:
            if self.num_waiting + 1 > self._max_num_waiting(share):
                waits.append(self._seconds(self._num_tokens / self.num_waiting))
            excess = self._num_tokens + num_tokens - self._max_num_tokens(share_of_size)
            if excess > 0:
                waits.append(self._seconds(excess))
        return max(waits)

    def _seconds(self, num_tokens: float) -> float:
        """How long so much work takes."""
        rate = self._rate.per_second
        return _UNKNOWN_WAIT if rate is None else num_tokens / rate

    def _book(
        self,
        name: str,
        demand: Demand,
        num_tokens: float,
        arrival_time: float,
        wait: float,
        now: float,
    ) -> float:
        rate = self._rate.per_second
        seconds = _UNKNOWN_WAIT / max(1, self.num_waiting) if rate is None else num_tokens / rate
        time = self._turns.book(now, wait, seconds, self._refused.returning_share)
        self._refused.remember(name, Turn(time, arrival_time, demand))
        return time - now

    def _refusal(self, seconds: float) -> QueueFullError:
        return QueueFullError(
            f"{self.num_waiting} requests wait for their first token already; come back in "
            f"{seconds:.1f} s under the same request_id",
            seconds,
        )

    def _leave_queue(self, ticket: Ticket, now: float) -> None:
        ticket.began = now
        self.num_waiting -= 1
        # Exactly 0 when nothing waits, however the sums were rounded.
        self._num_tokens = self._num_tokens - ticket.num_tokens if self.num_waiting else 0.0

    def _update_queue(self, now: float) -> None:
        seconds = 0.0
        if self._rate.per_second is not None:
            seconds = self._num_tokens / self._rate.per_second
        self._queue.update(now, seconds, self._target_seconds)
