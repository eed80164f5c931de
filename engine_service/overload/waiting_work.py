"""WaitingWork: the requests without an output, and how much work they are."""

from engine_service.overload.ticket import Ticket

HEAVY_SHARE = 0.5
"""The part of an engine's work that heavy requests may ask for while others wait."""


class WaitingWork:
    """In two classes. A light request is queued as it comes. So is the first heavy one; each
    further one behind what comes while the engine does twice the work of the heavy ones before it.
    So light requests need not wait for all of them, however many there are.
    """

    def __init__(self) -> None:
        self.num_requests = 0
        self.num_tokens = 0.0
        """All of it."""
        self.num_tokens_ahead = 0.0
        """What a light request that comes now would wait for."""
        self._heavy_tokens = 0.0
        self._heavy: dict[Ticket, float] = {}  # and their places in time, in order
        self._later: dict[Ticket, float] = {}  # those of them whose place is to come

    def add(self, ticket: Ticket) -> None:
        """Queues a light request."""
        self.num_tokens_ahead += ticket.num_tokens
        self._count(ticket)

    def add_heavy(self, ticket: Ticket, now: float, seconds_per_token: float) -> None:
        """Queues a heavy one, which gets its handicap."""
        place = now + self._heavy_tokens * seconds_per_token / HEAVY_SHARE
        if self._heavy:
            place = max(place, next(reversed(self._heavy.values())))
        ticket.handicap = place - min(now, ticket.arrival_time)
        self._heavy[ticket] = self._later[ticket] = place
        self._heavy_tokens += ticket.num_tokens
        self._count(ticket)
        self.advance(now)

    def remove(self, ticket: Ticket) -> None:
        """It has an output, or has ended."""
        self.num_requests -= 1
        self.num_tokens -= ticket.num_tokens
        if self._later.pop(ticket, None) is None:
            self.num_tokens_ahead -= ticket.num_tokens
        if self._heavy.pop(ticket, None) is not None:
            self._heavy_tokens -= ticket.num_tokens
        if not self.num_requests:  # exactly, however the sums were rounded
            self.num_tokens = self.num_tokens_ahead = 0.0
        if not self._heavy:
            self._heavy_tokens = 0.0

    def advance(self, now: float) -> None:
        """Whatever comes from now on comes behind the heavy requests whose place has passed."""
        while self._later:
            ticket, place = next(iter(self._later.items()))
            if place > now:
                return
            del self._later[ticket]
            self.num_tokens_ahead += ticket.num_tokens

    def _count(self, ticket: Ticket) -> None:
        self.num_requests += 1
        self.num_tokens += ticket.num_tokens
