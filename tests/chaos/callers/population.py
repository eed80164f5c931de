"""Population: many callers at once, each of a manner that follows from the seed and its number.

`python -m chaos soak --seed S --only N` sends the same request in the same manner again, alone.
"""

import asyncio
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import grpc

from chaos.callers.ask import Ask, Reference, fork
from chaos.callers.call import PLAIN, Call, Manner, Record
from chaos.checks.streams import problems

CANCELS, DEADLINES, SLOW, FORKS = 0.3, 0.2, 0.1, 0.05
"""Shares of the callers; who forks cancels nothing."""
_OK, _CANCELLED = grpc.StatusCode.OK, grpc.StatusCode.CANCELLED
_EXPIRED = grpc.StatusCode.DEADLINE_EXCEEDED


@dataclass(frozen=True, slots=True)
class Plan:
    """What caller `number` does."""

    number: int
    ask: Ask
    manner: Manner
    forks: bool

    @property
    def codes(self) -> frozenset[grpc.StatusCode]:
        """How its call may end."""
        codes = {_OK}
        if self.manner.timeout is not None:
            codes.add(_EXPIRED)
        if self.manner.cancel_after is not None or self.manner.cancel_at_message is not None:
            codes.add(_CANCELLED)
        return frozenset(codes)


def plan(seed: int, number: int, asks: Sequence[Ask]) -> Plan:
    """The plan of one caller, always the same."""
    rng = random.Random(f"{seed} {number}")
    ask = rng.choice(asks)
    forks = rng.random() < FORKS and ask.method == "Generate" and ask.label.startswith("parent")
    kind = rng.random()
    manner = PLAIN
    if kind < CANCELS and not forks:
        if rng.random() < 0.5:
            manner = Manner(cancel_at_message=rng.randint(1, 8))
        else:
            manner = Manner(cancel_after=rng.expovariate(10))
    elif kind < CANCELS + DEADLINES and not forks:
        manner = Manner(timeout=0.002 + rng.expovariate(5))
    elif kind < CANCELS + DEADLINES + SLOW:
        manner = Manner(pause=rng.uniform(0.02, 0.2))
    return Plan(number, ask, manner, forks)


@dataclass(slots=True)
class Tally:
    """What became of the calls."""

    num_calls: int = 0
    num_ok: int = 0
    num_cut: int = 0
    """Ended by their caller or deadline, after their first message and before their end."""
    num_tokens: int = 0
    num_forks: int = 0


class Population:
    """Sends `total` requests, `width` at a time."""

    def __init__(
        self, stubs: Sequence[Any], references: Mapping[Ask, Reference], seed: int, width: int
    ) -> None:
        """Each caller uses one of `stubs`, in turns."""
        self.tally = Tally()
        self.violations: list[str] = []
        self._stubs = stubs
        self._references = references
        self._asks = tuple(references)
        self._seed = seed
        self._width = width

    async def run(self, numbers: Iterator[int], while_running: Callable[[], bool]) -> None:
        """Sends those of the numbers, as long as it may."""

        async def caller() -> None:
            for number in numbers:
                if not while_running():
                    return
                await self._send(plan(self._seed, number, self._asks))

        async with asyncio.TaskGroup() as group:
            for _ in range(self._width):
                group.create_task(caller())

    async def _send(self, planned: Plan) -> None:
        stub = self._stubs[planned.number % len(self._stubs)]
        name = f"s{self._seed}-{planned.number}"
        call = Call(stub, planned.ask, name, planned.manner)
        branch: Call | None = None
        if planned.forks:
            await call.until_pieces(2)
            if call.record.code is None:
                branch = Call(stub, fork(name, 8), f"{name}-fork")
        await call.task
        reference = self._references[planned.ask]
        self._judge(planned, call.record, reference, planned.codes)
        if branch is not None:
            await branch.task
            # The parent may have ended meanwhile.
            codes = {_OK, grpc.StatusCode.NOT_FOUND}
            expected = reference.after(branch.record.num_parent_tokens or 0)
            self.tally.num_forks += 1
            self._judge(planned, branch.record, expected, frozenset(codes))

    def _judge(
        self, planned: Plan, record: Record, reference: Reference, codes: frozenset[grpc.StatusCode]
    ) -> None:
        tally = self.tally
        tally.num_calls += 1
        tally.num_ok += record.code is _OK
        tally.num_cut += record.code is not _OK and bool(record.pieces)
        tally.num_tokens += sum(len(piece.token_ids) for piece in record.pieces)
        for problem in problems(record, reference, codes):
            self.violations.append(f"caller {planned.number} ({planned.manner}): {problem}")


def numbers(total: int | None) -> Iterator[int]:
    """0, 1, 2 ... for callers to share."""
    return iter(range(total)) if total is not None else count()
