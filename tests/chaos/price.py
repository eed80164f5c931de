"""The price of it all: processor time of this checkout over another one, a token and a request.

256 streams run at once through both services, with the real scheduler and a model that costs
nothing, and nothing goes wrong. Of long streams the tokens have a price, of those of 16 tokens the
requests. Each pair is one batch in each checkout, both at the same time and paced, so that whatever
else the machine does meets both alike. The result is the mean ratio of new over old and its 95 %
interval, for each service and for both together; the limit is for both.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.checkouts import interval
from chaos.callers.ask import Ask, generate, params
from chaos.callers.call import Call, Manner
from chaos.checks.verdicts import Report
from chaos.inside.fake_model import expected_tokens
from chaos.processes.service import ROOT, Service
from chaos.processes.site import front_end_stub
from folovllm.v1 import tokenizer_service_pb2 as messages

MAX_RATIO = 1.03
BOTH = "both services"
_NUM_STREAMS, _PROMPT_TOKENS = 256, 16
_PACE_SECONDS = 0.05
"""Between two steps, so that no service falls behind and merges what it sends: two cores suffice
for both checkouts and their callers."""
_ENGINE_FLAGS = (
    *("--device", "cpu", "--max-num-seqs", str(_NUM_STREAMS), "--max-num-batched-tokens", "4096"),
    *("--num-blocks", "8192", "--speculation", "none"),
)
_VOCAB_SIZE = 2048


@dataclass(frozen=True, slots=True)
class Unit:
    """What has a price, and a batch that shows it."""

    name: str
    num_tokens: int
    """Of each stream."""
    rounds: int = 1
    """How often so many streams run at once; the system counts processor time in hundredths."""
    is_request: bool = False

    @property
    def amount(self) -> int:
        """How many of it a batch has."""
        return _NUM_STREAMS * self.rounds * (1 if self.is_request else self.num_tokens)


UNITS = {
    "token": Unit("a token", 128),
    "request": Unit("a request of 16 tokens", 16, rounds=6, is_request=True),
}


class Checkout:
    """Both services of a checkout, running."""

    def __init__(self, engine: Service, front_end: Service, stub: Any) -> None:
        self._engine, self._front_end, self._stub = engine, front_end, stub

    async def microseconds(self, unit: Unit, batch: list[list[Ask]]) -> dict[str, float]:
        """Processor time of one unit in a batch, by service."""
        services = {"engine service": self._engine, "tokenizer service": self._front_end}
        before = {name: service.cpu_seconds() for name, service in services.items()}
        for number, asks in enumerate(batch):
            calls = [
                Call(self._stub, ask, f"price {number} {place}", Manner(timeout=120))
                for place, ask in enumerate(asks)
            ]
            await asyncio.gather(*(call.task for call in calls))
            for call in calls:
                _check(call, unit)
        used = {
            name: (service.cpu_seconds() - before[name]) / unit.amount * 1e6
            for name, service in services.items()
        }
        return used | {BOTH: sum(used.values())}


async def price(report: Report, checkout: Path, pairs: int, units: Iterable[str] = UNITS) -> None:
    """Compares this checkout with another one, for units of these names."""
    async with running(checkout) as old, running(ROOT) as new:
        for unit in units:
            await _compare(report, old, new, UNITS[unit], pairs)


async def _compare(report: Report, old: Checkout, new: Checkout, unit: Unit, pairs: int) -> None:
    ratios: dict[str, list[float]] = {}
    sampling = params(unit.num_tokens)
    for pair in range(pairs + 1):
        batch = [
            [
                generate(f"{unit.name} {pair}.{number}.{place}", _PROMPT_TOKENS, sampling)
                for place in range(_NUM_STREAMS)
            ]
            for number in range(unit.rounds)
        ]
        sides = (old, new) if pair % 2 else (new, old)
        found = await asyncio.gather(*(side.microseconds(unit, batch) for side in sides))
        used = dict(zip(sides, found, strict=True))
        before, after = used[old], used[new]
        if pair:  # the first one warms up
            for name in after:
                ratios.setdefault(name, []).append(after[name] / before[name])
            print(f"pair {pair}: {before[BOTH]:.1f}, now {after[BOTH]:.1f} µs {unit.name}")
    for name, values in ratios.items():
        mean, low, high = interval(values)
        note = f"{mean:.3f} (95 %: {low:.3f} to {high:.3f}), {pairs} pairs"
        over = high > MAX_RATIO and name == BOTH
        too_dear = [f"the upper bound is {high:.3f}, over {MAX_RATIO}"] if over else []
        report.add(f"price of {unit.name}: {name}", too_dear, note)


@asynccontextmanager
async def running(checkout: Path) -> AsyncIterator[Checkout]:
    """The services of a checkout, ready."""
    async with AsyncExitStack() as stack:
        engine = Service("engine_service", *_ENGINE_FLAGS, fake=True, checkout=checkout)
        stack.push_async_callback(engine.close)
        front_end = Service("tokenizer_service", "--engine", engine.address, checkout=checkout)
        stack.push_async_callback(front_end.close)
        await front_end.wait_serving()
        await engine.ask("pace", _PACE_SECONDS)
        stub = await stack.enter_async_context(front_end_stub(front_end.address))
        yield Checkout(engine, front_end, stub)


def _check(call: Call, unit: Unit) -> None:
    """What is fast and wrong has no price."""
    message = call.record.ask.message
    assert isinstance(message, messages.GenerateRequest)
    seed = message.sampling_params.seed
    expected = expected_tokens(message.token_ids.ids, unit.num_tokens, _VOCAB_SIZE, seed)
    assert call.record.reference().token_ids == (tuple(expected),), call.record.name
