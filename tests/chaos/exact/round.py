"""What all rounds have in common: the site, the quiet pair of services, and the verdicts."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Any

import grpc

from chaos.checks.rest import Rest, at_rest
from chaos.checks.verdicts import Report
from chaos.exact.asks import NUM_KINDS, Ask, ask
from chaos.exact.cohort import Blow, Cohort
from chaos.exact.pauses import NO_PREFILL, Pause, Prefill, measure_prefill, pause, pause_note
from chaos.exact.stream import Received, open_stream
from chaos.exact.undisturbed import problems_of
from chaos.processes.service import Service
from chaos.processes.site import Engine, Site, front_end_stub, running_site

BOTH_QUANTIZATIONS = ("none", "int8")
PACE_SECONDS = 0.008
"""Between two steps, so that streams last, and two cores suffice for all that runs."""
_AT_ONCE = 24
_REFUSED = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
_READY_SECONDS = 30.0
_REST_SECONDS = 20.0
_ENOUGH_PROBLEMS = 200
THREE_ENGINES = tuple(("--speculation", each) for each in ("none", "ngram", "none"))
"""That they do not all speculate must not matter."""


@dataclass(frozen=True, slots=True)
class Options:
    """Of the command line."""

    seed: int = 0
    streams: int = 2_000
    kills: int = 250
    rounds: int = 12
    cuts: int = 500
    blocks: int = 3_000
    """Of each engine's KV cache; if they are few, streams are preempted too."""
    model: str | None = None
    quantizations: Sequence[str] = BOTH_QUANTIZATIONS

    @classmethod
    def short(cls, seed: int) -> "Options":
        """For some minutes."""
        return cls(seed, streams=160, kills=16, rounds=3, cuts=48)

    def engine_flags(self, quantization: str = "none") -> tuple[str, ...]:
        """Of real engines on a CPU, with the CPU kernels."""
        own = ("--device", "cpu", "--num-blocks", f"{self.blocks}", "--quantization", quantization)
        return (*own, *self.model_flags)

    @property
    def model_flags(self) -> tuple[str, ...]:
        """Of both services."""
        return ("--model", self.model) if self.model else ()


@dataclass(slots=True)
class Tally:
    """What has been judged."""

    cut: Counter[str] = field(default_factory=Counter)
    """Streams that moved, by their kind."""
    num_streams: int = 0
    num_moves: int = 0
    num_blows: int = 0
    num_tokens: int = 0
    problems: list[str] = field(default_factory=list)
    pauses: list[Pause] = field(default_factory=list)

    @property
    def num_cut(self) -> int:
        """Streams that moved."""
        return self.cut.total()


class Ground:
    """A site that is hurt, and services of the same flags that are not.

    `stub` is of the site's front end, `quiet` of the other one.
    """

    def __init__(
        self, site: Site, stub: Any, quiet: Any, prefill: Prefill = NO_PREFILL, seed: int = 0
    ) -> None:
        self.site, self.stub = site, stub
        self._quiet, self._prefill = quiet, prefill
        self._numbers = count()
        self._seed = seed
        self._without: set[str] = set()
        self.rest: Rest | None = None
        """What is held while nobody asks anything."""
        self.tally = Tally()

    async def leave_out_refused(self) -> None:
        """Asks nothing of a kind that the model is not made for, such as calls of tools."""
        for each in (ask(self._seed, number) for number in range(NUM_KINDS)):
            stream = open_stream(self._quiet, each, "refused?")
            await stream.task
            if stream.received.code in _REFUSED:
                self._without.add(each.kind)

    def asks(self, number: int, scale: float = 1.0) -> list[Ask]:
        """So many that were not asked yet."""
        asks = (ask(self._seed, each, scale) for each in self._numbers)
        return [*islice((each for each in asks if each.kind not in self._without), number)]

    async def judge(self, cohort: Cohort, exact: bool = True) -> None:
        """Waits for the end of a cohort, and compares each stream with an undisturbed one."""
        received = await cohort.over()
        places = asyncio.Semaphore(_AT_ONCE)

        async def one(each: Received) -> list[str]:
            async with places:
                is_exact = exact or not each.num_moves
                parent = cohort.parent_of(each)
                return await problems_of(each, parent, self._quiet, exact=is_exact)

        for problems in await asyncio.gather(*map(one, received)):
            self.tally.problems += problems
            for problem in problems:
                print(f"{'':19}{problem}", flush=True)
        self._count(received, cohort.blows)

    def _count(self, received: Sequence[Received], blows: Iterable[Blow]) -> None:
        tally = self.tally
        tally.num_streams += len(received)
        for each in received:
            tally.num_tokens += each.num_tokens
            tally.num_moves += each.num_moves
            tally.cut[each.ask.kind] += each.num_moves > 0
        for blow in blows:
            tally.num_blows += 1
            due = self._prefill.of(blow.lengths)
            for each in blow.victims:
                if (seconds := pause(each, blow.at)) is not None:
                    tally.pauses.append(Pause(seconds, due, str(each)))

    async def all_ready(self) -> None:
        """Returns when the front end would send requests to every engine. Raises TimeoutError."""
        await self.until_ready(self.site.front_end)

    async def until_ready(self, front_end: Service) -> None:
        """The same of any front end."""
        addresses = {engine.address for engine in self.site.engines}
        async with asyncio.timeout(_READY_SECONDS):
            while {*await front_end.ask("ready_engines")} != addresses:
                await asyncio.sleep(0.02)

    @property
    def is_hopeless(self) -> bool:
        """Whether so much is wrong that more of it would tell nothing."""
        return len(self.tally.problems) > _ENOUGH_PROBLEMS

    async def report(
        self, report: Report, name: str, pause_limit: float, floor: int | None
    ) -> None:
        """The verdicts. `pause_limit` is over the prefill.

        At least `floor` streams must have moved, unless it is None.
        """
        tally = self.tally
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(tally.cut.items()) if count)
        if self._without:
            kinds += f"; without {', '.join(sorted(self._without))}"
        load = (
            f"{tally.num_streams} streams, {tally.num_tokens} tokens, {tally.num_blows} blows, "
            f"{tally.num_cut} streams cut {tally.num_moves} times"
        )
        report.add(f"exact: {name}: streams", tally.problems, load)
        if tally.pauses:
            late = sorted(each for each in tally.pauses if each.over > pause_limit)[::-1]
            count = f"{len(late)} of {len(tally.pauses)}"
            found = [f"{count} are longer than the prefill + {pause_limit:g} s", *map(str, late)]
            report.add(f"exact: {name}: pauses", found if late else [], pause_note(tally.pauses))
        if self.rest is not None:
            held = await self.rest.problems(self.site, _REST_SECONDS)
            report.add(f"exact: {name}: at rest", held)
        if floor is None:
            return
        few = [f"it does not count: {tally.num_cut} were cut, and {floor} are needed"]
        report.add(f"exact: {name}: load", few if tally.num_cut < floor else [], kinds)


@asynccontextmanager
async def ground(
    options: Options,
    *each: Sequence[str],
    quantization: str = "none",
    front_end_flags: Sequence[str] = (),
    is_proxied: bool = False,
) -> AsyncIterator[Ground]:
    """An engine for each of these flags behind one front end, and a quiet pair beside."""
    flags = options.engine_flags(quantization)
    front_end_flags = (*options.model_flags, *front_end_flags)
    site = running_site(
        *each,
        real_flags=flags,
        front_end_flags=front_end_flags,
        is_proxied=is_proxied,
    )
    quiet = running_site((), real_flags=flags, front_end_flags=front_end_flags)
    async with quiet as alone, site as hurt:
        stub = front_end_stub(hurt.front_end.address)
        quiet_stub = front_end_stub(alone.front_end.address)
        async with stub as ours, quiet_stub as others:
            prefill = await measure_prefill(alone.engines[0].stub)
            found = Ground(hurt, ours, others, prefill, options.seed)
            if options.model:
                await found.leave_out_refused()
            await asyncio.gather(*map(pace, hurt.engines))
            await found.all_ready()
            found.rest = await at_rest(hurt)
            yield found


async def pace(engine: Engine, seconds: float = PACE_SECONDS) -> None:
    """Lets an engine take its time."""
    await engine.service.ask("pace", seconds)


async def restart(engine: Engine) -> None:
    """A new process at the address of one that has ended."""
    await engine.restart()
    await pace(engine)
