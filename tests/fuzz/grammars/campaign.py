"""Campaign: a flood of generated grammars, and those beside it who must not notice."""

import asyncio
import gc
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import psutil

from engine_service.structured_output.grammar import Grammar
from engine_service.structured_output.grammar_cache import GrammarCache
from engine_service.structured_output.grammar_compiler import GrammarCompiler
from engine_service.structured_output.rehearsed_compiler import RehearsedCompiler
from folovllm.errors import InvalidRequestError, QueueFullError
from folovllm.parameters.structured_output import StructuredOutput
from folovllm.serving.memory.settling import return_free_memory

_NUM_CALLERS = 16
_NUM_STEPS = 6
# After which threads, stacks and arenas are there.
_NUM_FIRST = 200
_CANARY_INTERVAL = 0.2
_PASSED = StructuredOutput(
    "json_schema", '{"type": "object", "properties": {"a": {"type": "null"}}}'
)
_MIB = 2**20


@dataclass
class Findings:
    """What was seen. Times in seconds, memory in MiB."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    """Until `json_object`, or what had passed before, was compiled anew."""
    lags: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    """Processor time of a mask and a token of each that was compiled, at most."""
    memory: tuple[float, float] = (0.0, 0.0)
    """Of the engine's process after the first few and after all, each time with empty caches."""

    def lines(self) -> list[str]:
        """The figures, one a line."""
        described = ", ".join(f"{name} {number}" for name, number in sorted(self.outcomes.items()))
        return [
            f"outcomes: {described}",
            f"start of json_object and of what has passed: {_spread(self.starts)}",
            f"lag of the event loop: {_spread(self.lags)}",
            f"processor time of a step: {_spread(self.steps)}",
            f"memory: {self.memory[0]:.0f} MiB after the first, {self.memory[1]:.0f} MiB after all",
            *(f"FAULT {fault}" for fault in self.faults),
        ]


class Campaign:
    """Asks a RehearsedCompiler for everything at once, as a tokenizer service's callers would."""

    def __init__(self, compiler: GrammarCompiler, rehearsed: RehearsedCompiler) -> None:
        self._compiler = compiler
        self._rehearsed = rehearsed
        self._steps = ThreadPoolExecutor(1)  # as the engine has one for its steps
        self.findings = Findings()

    async def run(self, outputs: Iterable[tuple[StructuredOutput, bool]]) -> Findings:
        """Returns when every grammar was compiled or refused."""
        await self._rehearsed.compile(_PASSED, None)
        beside = asyncio.gather(self._canary(), self._watch_lag())
        remaining = iter(outputs)
        await self._ask_all(islice(remaining, _NUM_FIRST))
        before = self._memory()
        await self._ask_all(remaining)
        beside.cancel()
        await asyncio.gather(beside, return_exceptions=True)
        self._steps.shutdown()
        self.findings.memory = before, self._memory()
        self._check_rest()
        return self.findings

    async def _ask_all(self, outputs: Iterator[tuple[StructuredOutput, bool]]) -> None:
        await asyncio.gather(*(self._caller(outputs) for _ in range(_NUM_CALLERS)))

    async def _caller(self, remaining: Iterator[tuple[StructuredOutput, bool]]) -> None:
        for output, is_costly in remaining:
            outcome = await self._ask(output)
            self.findings.outcomes[f"{'costly' if is_costly else 'harmless'} {outcome}"] += 1

    async def _ask(self, output: StructuredOutput) -> str:
        """What became of it; a request that is refused for now comes back."""
        while True:
            try:
                grammar = await self._rehearsed.compile(output, None)
            except InvalidRequestError as error:
                if error.field != f"sampling_params.{output.kind}":
                    self._fault(output, f"the field {error.field}")
                return "refused"
            except QueueFullError:
                self.findings.outcomes["(put off)"] += 1
                await asyncio.sleep(0.1)
            except Exception as error:
                self._fault(output, repr(error))
                return "failed"
            else:
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(self._steps, self._follow, grammar)
                return "compiled"

    def _follow(self, grammar: Grammar) -> None:
        """A few tokens, each the lowest id that may come next."""
        matcher = grammar.matcher()
        row = np.empty(self._compiler.vocabulary.num_words, dtype=np.int32)
        worst = 0.0
        try:
            for _ in range(_NUM_STEPS):
                began = time.thread_time()
                matcher.fill_bitmask(row)
                allowed = row & self._compiler.vocabulary.all_but_eos
                ids = np.flatnonzero(np.unpackbits(allowed.view(np.uint8), bitorder="little"))
                if not len(ids):
                    break
                matcher.accept(int(ids[0]))
                worst = max(worst, time.thread_time() - began)
        except InvalidRequestError:
            self.findings.outcomes["(given up on the way)"] += 1
        self.findings.steps.append(worst)

    async def _canary(self) -> None:
        """Asks for what never queues, and is in no cache."""
        while True:
            for output in (StructuredOutput("json_object", True), _PASSED):
                self._compiler.cache = GrammarCache(0)
                began = time.perf_counter()
                await self._rehearsed.compile(output, None)
                self.findings.starts.append(time.perf_counter() - began)
            await asyncio.sleep(_CANARY_INTERVAL)

    async def _watch_lag(self) -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.01)
            self.findings.lags.append(time.perf_counter() - began - 0.01)

    def _check_rest(self) -> None:
        """What must hold once all have been answered."""
        rehearsals = self._rehearsed.rehearsals
        for lanes in (rehearsals.fast, rehearsals.slow):
            if lanes.num_running or lanes.num_waiting:
                self.findings.faults.append("a lane is taken by nobody")
        pid = rehearsals.server.pid
        if pid is not None and psutil.Process(pid).children():
            self.findings.faults.append("a builder is left")

    def _memory(self) -> float:
        self._compiler.cache = GrammarCache(0)
        gc.collect()
        return_free_memory()
        return psutil.Process().memory_info().rss / _MIB

    def _fault(self, output: StructuredOutput, what: str) -> None:
        self.findings.faults.append(f"{what}: {output.kind} {output.value!r:.200}")


def _spread(values: list[float]) -> str:
    if not values:
        return "none"
    low, high = np.percentile(values, [50, 99])
    return (
        f"median {low * 1e3:.1f} ms, 99 % {high * 1e3:.1f} ms, at most {max(values) * 1e3:.1f} ms"
    )
