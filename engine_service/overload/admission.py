"""Admission: which requests an engine takes on, and when those that it refuses may return.

A request is refused if with it too many would wait, or too much work, or all of them would hold too
much memory, or it could hardly start in time at the speed at which the engine works. A burst may
fill the queue; one that stays long is kept short. Whatever the limits are, a request runs if
nothing is before it.
"""

from engine_service.overload.demand import Demand
from engine_service.overload.queue_limits import QueueLimits
from engine_service.overload.recent_mean import RecentMean
from engine_service.overload.refused_requests import RefusedRequests, Turn
from engine_service.overload.standing_queue import StandingQueue
from engine_service.overload.ticket import Ticket
from engine_service.overload.turns import Turns
from engine_service.overload.waiting_work import HEAVY_SHARE, WaitingWork
from engine_service.overload.work_rate import WorkRate
from folovllm.errors import QueueFullError

# The part of each limit that newcomers may use while others have a turn to return at.
_NEWCOMERS_SHARE = 0.625
# Tokens that a sequence generates, before any has ended.
_FIRST_GUESS = 64.0
# Bytes that a request holds, before any has come.
_FIRST_GUESS_BYTES = 8192.0
# Seconds that may pass until a request starts while more comes than goes: so many, or so many times
# as many as one runs.
_TARGET_SECONDS, _TARGET_RUNS = 2.0, 1.5
# Seconds until there may be room, while nothing tells.
_UNKNOWN_WAIT = 1.0
# What is told of numbers without a limit.
_MANY = 2**31 - 1


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
        self._offered_bytes = RecentMean(_FIRST_GUESS_BYTES)
        self._num_tickets = 0
        self._num_bytes = 0
        self._waiting = WaitingWork()

    def admit(
        self, name: str, demand: Demand, arrival_time: float, now: float, *, moved: bool = False
    ) -> Ticket:
        """Takes a request on. Raises QueueFullError with the time that is left until its turn.

        One that comes before its turn keeps it. One that comes later than its turn is good for, or
        asks for more than then, is like any that comes for the first time. One that has `moved`
        here from another engine, which has admitted it, is never refused: others are the sooner.
        """
        num_tokens = max(1.0, demand.num_tokens(self._output_tokens.value))
        self._offered_tokens.add(num_tokens)
        self._offered_bytes.add(demand.num_bytes)
        self._update_queue(now)
        turn = self._refused.find(name, now)
        if turn is not None and not demand.is_within(turn.demand):
            turn = None
        ticket = Ticket(demand, num_tokens, arrival_time if turn is None else turn.arrival)
        if moved:
            ticket.arrival_time = min(arrival_time, ticket.arrival_time)
        else:
            self._check_room(name, ticket, turn, now)
        self._refused.forget(name)
        self._num_tickets += 1
        self._num_bytes += demand.num_bytes
        if self._is_heavy(num_tokens) and not moved:
            rate = self._rate.per_second or self._limits.ordinary_num_tokens
            self._waiting.add_heavy(ticket, now, 1 / rate)
        else:
            self._waiting.add(ticket)
        return ticket

    def _check_room(self, name: str, ticket: Ticket, turn: Turn | None, now: float) -> None:
        if turn is not None and now < turn.time and self._waiting.num_requests:
            raise self._refusal(turn.time - now)
        wait = self._wait(ticket, returns=turn is not None)
        if wait > 0:
            raise self._refusal(self._book(name, ticket, wait, now))

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
        wait = max(self._wait(ticket, returns=False), _UNKNOWN_WAIT)
        return self._book(name, ticket, wait, now)

    @property
    def num_admissible(self) -> int:
        """Ordinary requests of the size of the latest ones that would be admitted now."""
        share, waiting = self._newcomers_share, self._waiting
        num_tokens = max(1.0, min(self._offered_tokens.value, self._limits.ordinary_num_tokens))
        number = min(
            self._max_num_waiting(share) - waiting.num_requests,
            (self._limits.max_num_bytes * share - self._num_bytes) / self._offered_bytes.value,
            (self._max_num_tokens(share) - waiting.num_tokens_ahead) / num_tokens,
        )
        return max(0 if waiting.num_requests else 1, int(min(number, _MANY)))

    @property
    def _newcomers_share(self) -> float:
        """The part of each limit that those may use who come for the first time."""
        is_contested = self._waiting.num_requests and len(self._refused)
        return _NEWCOMERS_SHARE if is_contested else 1.0

    def _is_heavy(self, num_tokens: float) -> bool:
        return num_tokens > self._limits.ordinary_num_tokens

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
            given = max(_TARGET_SECONDS, _TARGET_RUNS * self._run_seconds.value)
        return min(given, self._limits.max_seconds)

    def _wait(self, ticket: Ticket, returns: bool) -> float:
        """Seconds until there will be room for a request; 0 if there is.

        One of much work that comes for the first time leaves room for others.
        """
        waiting = self._waiting
        share_of_size = share = 1.0 if returns else self._newcomers_share
        num_tokens = waiting.num_tokens_ahead
        if self._is_heavy(ticket.num_tokens) and not returns:
            num_tokens = waiting.num_tokens
            share_of_size *= HEAVY_SHARE * self._limits.ordinary_num_tokens / ticket.num_tokens
        waits = [0.0]
        if self._num_tickets:
            num_bytes = self._num_bytes + ticket.demand.num_bytes
            if num_bytes > self._limits.max_num_bytes * share_of_size:
                waits.append(_UNKNOWN_WAIT)
        if waiting.num_requests:
            if waiting.num_requests + 1 > self._max_num_waiting(share):
                waits.append(self._seconds(waiting.num_tokens / waiting.num_requests))
            excess = num_tokens - self._max_num_tokens(share_of_size)
            if excess > 0:
                waits.append(self._seconds(excess))
        return max(waits)

    def _seconds(self, num_tokens: float) -> float:
        """How long so much work takes."""
        rate = self._rate.per_second
        if rate is None:  # as if all that waits took so long
            return _UNKNOWN_WAIT * num_tokens / max(self._waiting.num_tokens, num_tokens)
        return num_tokens / rate

    def _book(self, name: str, ticket: Ticket, wait: float, now: float) -> float:
        """Gives a refused request its turn; returns the seconds until then."""
        seconds = self._seconds(ticket.num_tokens)
        time = self._turns.book(now, wait, seconds, self._refused.returning_share)
        self._refused.remember(name, Turn(time, ticket.arrival_time, ticket.demand))
        return time - now

    def _refusal(self, seconds: float) -> QueueFullError:
        return QueueFullError(
            f"the engine is busy: {self._waiting.num_requests} requests wait for their first "
            f"token; return in {seconds:.1f} s, with the same request_id to go before others",
            seconds,
        )

    def _leave_queue(self, ticket: Ticket, now: float) -> None:
        ticket.began = now
        self._waiting.remove(ticket)

    def _update_queue(self, now: float) -> None:
        self._waiting.advance(now)
        known = self._rate.per_second is not None
        seconds = self._seconds(self._waiting.num_tokens_ahead) if known else 0.0
        self._queue.update(now, seconds, self._target_seconds)
