"""RehearsedCompiler: compiles the grammars of callers whom nobody has to trust.

A grammar that nobody has seen is first built by a process that may be lost, see `rehearsal`; the
engine's process builds only what has passed, so that it knows what that takes. What we wrote
ourselves and what has passed before need no rehearsal, and wait for no other's.
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from engine_service.structured_output.build_thread import BuildLane
from engine_service.structured_output.grammar import Grammar
from engine_service.structured_output.grammar_compiler import GrammarCompiler, grammar_spec
from engine_service.structured_output.grammar_spec import GrammarSpec
from engine_service.structured_output.refusals import refusal
from engine_service.structured_output.rehearsal.limits import RehearsalLimits
from engine_service.structured_output.rehearsal.messages import Setting
from engine_service.structured_output.rehearsal.rehearsals import Passed, Refused, Rehearsals
from folovllm.errors import QueueFullError
from folovllm.parameters.reasoning import Reasoning
from folovllm.parameters.structured_output import StructuredOutput

# Verdicts that are remembered, at most half a kilobyte each.
_MAX_VERDICTS = 8192
# Of all grammars that are kept or followed.
_MAX_LIVING_BYTES = 512 * 2**20
# Of a build that may be ahead of one that is never to wait.
_SOON_SECONDS = 0.05
_RETRY_SECONDS = 2.0

T = TypeVar("T")


@dataclass
class _Flight:
    """A grammar that is being compiled, and how many wait for it."""

    task: asyncio.Task[Grammar]
    num_waiting: int = 0


class RehearsedCompiler:
    """Compiles for a service. Belongs to one event loop, which it does not block."""

    def __init__(self, compiler: GrammarCompiler, limits: RehearsalLimits | None = None) -> None:
        limits = limits or RehearsalLimits()
        vocabulary = compiler.vocabulary
        setting = Setting(
            str(vocabulary.path),
            vocabulary.vocab_size,
            vocabulary.eos_token_ids,
            limits.token_seconds,
        )
        self._compiler = compiler
        self._rehearsals = Rehearsals(setting, limits)
        self.lanes = self._rehearsals.lanes
        self._verdicts: OrderedDict[bytes, Passed | Refused] = OrderedDict()
        self._flights: dict[GrammarSpec, _Flight] = {}
        self._soon, self._later = BuildLane(), BuildLane()

    async def compile(
        self, output: StructuredOutput | None, reasoning: Reasoning | None, caller: str = ""
    ) -> Grammar:
        """See GrammarCompiler.compile; `caller` is whose turn it takes where there is a queue.

        Everything ends that was begun for it if nobody waits any more. Raises UnavailableError too.
        """
        spec = grammar_spec(output, reasoning)
        grammar = self._compiler.cache.get(spec)
        if grammar is not None:
            return grammar
        flight = self._flights.get(spec)
        if flight is None:
            flight = self._flights[spec] = _Flight(asyncio.create_task(self._make(spec, caller)))
            flight.task.add_done_callback(lambda _: self._land(spec, flight))
        flight.num_waiting += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.num_waiting -= 1
            if not flight.num_waiting:
                flight.task.cancel()
                self._land(spec, flight)

    def warm_up(self) -> None:
        """Begins what the first grammar would otherwise wait for: a process, and the vocabulary."""
        self.lanes.warm_up()
        self._soon.submit(self._compiler.vocabulary.load)  # the first grammar tells if it fails

    def close(self) -> None:
        """Ends threads and processes."""
        for flight in list(self._flights.values()):
            flight.task.cancel()
        self._soon.close()
        self._later.close()
        self._rehearsals.close()

    def _land(self, spec: GrammarSpec, flight: _Flight) -> None:
        """Lets the next one that asks for it begin anew."""
        if self._flights.get(spec) is flight:
            del self._flights[spec]

    async def _make(self, spec: GrammarSpec, caller: str) -> Grammar:
        if spec.is_ours:
            await self._load_vocabulary(spec)
            return await self._run(self._soon, lambda: self._compiler.build(spec))
        digest = hashlib.sha256(spec.encode().encode()).digest()
        known = verdict = self._verdicts.get(digest)
        if verdict is None:
            await self._load_vocabulary(spec)  # without one, no process has to try
            verdict = await self._rehearsals.rehearse(spec, caller)
        self._remember(digest, verdict)
        if isinstance(verdict, Refused):
            raise refusal(spec.name, verdict.message)
        if self._compiler.cache.num_living_bytes + verdict.num_bytes > _MAX_LIVING_BYTES:
            raise QueueFullError(
                "the grammars of running requests take all memory that there is for them",
                retry_after=_RETRY_SECONDS,
            )
        soon = known is not None and verdict.seconds < _SOON_SECONDS
        num_bytes = verdict.num_bytes
        return await self._run(
            self._soon if soon else self._later, lambda: self._compiler.build(spec, num_bytes)
        )

    async def _load_vocabulary(self, spec: GrammarSpec) -> None:
        await self._run(self._soon, lambda: self._compiler.load_vocabulary(spec))

    def _remember(self, digest: bytes, verdict: Passed | Refused) -> None:
        if isinstance(verdict, Refused) and not verdict.lasting:
            return
        self._verdicts[digest] = verdict
        self._verdicts.move_to_end(digest)
        while len(self._verdicts) > _MAX_VERDICTS:
            self._verdicts.popitem(last=False)

    async def _run(self, lane: BuildLane, work: Callable[[], T]) -> T:
        return await asyncio.wrap_future(lane.submit(work))
