"""Cohort: streams that run at once, and the blows that fall on their engines meanwhile."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from chaos.exact.asks import Ask
from chaos.exact.pauses import lengths_of
from chaos.exact.stream import Received, Stream, open_fork, open_stream
from chaos.processes.site import Engine, Site

_POLL = 0.02
_AT_A_FORK = 0.15
"""The share of blows that fall while a branch begins."""
_EARLY = 0.6
"""The share of a stream after which so many others have ended that a blow would be wasted."""
_ON_ITS_WAY = 0.2
"""Seconds in which all arrives that a front end has sent."""


@dataclass(slots=True)
class Blow:
    """What befell an engine, and the streams that ran there."""

    engine: Engine
    at: float
    victims: list[Received]
    lengths: list[int]
    """Of each of their continuations that had not ended: the tokens of its prompt and output."""


@dataclass(slots=True)
class Cohort:
    """Streams of one round. Forks are streams too, and begin when their parents have got so far."""

    site: Site
    streams: dict[str, Stream] = field(default_factory=dict)
    blows: list[Blow] = field(default_factory=list)
    _forks: list[asyncio.Task[None]] = field(default_factory=list)

    def begin(self, stub: Any, asks: Sequence[Ask], prefix: str) -> None:
        """Sends the asks, under names that begin with `prefix`."""
        for ask in asks:
            name = f"{prefix}.{ask.number}"
            self.streams[name] = open_stream(stub, ask, name)
            if ask.fork is not None:
                self._forks.append(asyncio.create_task(self._fork(stub, ask, name)))

    async def until_token(self, rng: random.Random) -> None:
        """Returns when a random stream has a random token, or has ended, or when a fork begins."""
        forks = [each for each in self._forks if not each.done()]
        if forks and rng.random() < _AT_A_FORK:
            await asyncio.wait(forks, return_when=asyncio.FIRST_COMPLETED)
            return
        running = [each for each in self.streams.values() if not each.received.is_over]
        if running:
            stream = rng.choice(running)
            more = rng.randint(0, int(_EARLY * stream.received.ask.num_tokens))
            place = stream.received.num_tokens + more
            await stream.until(lambda received: received.num_tokens >= place)

    async def until_all_began(self) -> None:
        """Returns when each has a token, or has ended."""
        waits = [each.until(lambda received: received.num_tokens > 0) for each in self._streamed]
        await asyncio.gather(*waits)

    @property
    def _streamed(self) -> list[Stream]:
        """Those that are not answered as a whole."""
        streams = self.streams.values()
        return [each for each in streams if not each.received.method.endswith("Once")]

    async def strike(self, engine: Engine) -> Blow:
        """Notes who runs at an engine that is about to be hurt; whoever calls it hurts it then."""
        victims = [self.streams[name].received for name in (await self.where())[engine.address]]
        lengths = [length for each in victims for length in lengths_of(each)]
        for each in victims:
            each.cuts.append(each.num_tokens)
        blow = Blow(engine, time.monotonic(), victims, lengths)
        self.blows.append(blow)
        return blow

    async def where(self) -> dict[str, list[str]]:
        """Which streams run at which engine."""
        names = [name for name, each in self.streams.items() if not each.received.is_over]
        found: dict[str, list[str]] = await self.site.front_end.ask("where", names)
        return found

    async def until_victims_go_on(self, blow: Blow, within: float) -> None:
        """Returns when each has a token that it had not when its engine was gone, or has ended.

        Else a second blow could hit one before its first new token, which is more than it survives.
        """
        deadline = time.monotonic() + within
        while (await self.where())[blow.engine.address] and time.monotonic() < deadline:
            await asyncio.sleep(_POLL)
        await asyncio.sleep(_ON_ITS_WAY)

        def has_more(than: int) -> Callable[[Received], bool]:
            return lambda received: received.num_tokens > than

        waits = [
            asyncio.create_task(self.streams[each.name].until(has_more(each.num_tokens)))
            for each in blow.victims
        ]
        if waits:
            _, late = await asyncio.wait(waits, timeout=within)
            for wait in late:
                wait.cancel()

    async def over(self) -> list[Received]:
        """What has come of all of them, when all have ended."""
        await asyncio.gather(*self._forks)
        await asyncio.gather(*(each.task for each in self.streams.values()))
        return [each.received for each in self.streams.values()]

    def parent_of(self, received: Received) -> Received | None:
        """Of a fork: the request that it has branched."""
        if received.method != "Fork":
            return None
        return self.streams[received.name.removesuffix("-fork")].received

    async def _fork(self, stub: Any, ask: Ask, name: str) -> None:
        fork, parent = ask.fork, self.streams[name]
        assert fork is not None
        await parent.until(lambda received: len(received.messages) >= fork.after)
        if not parent.received.is_over:
            branch = open_fork(stub, ask, name)
            self.streams[branch.received.name] = branch
