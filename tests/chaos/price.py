"""The price of it all: processor time a token of this checkout over another one.

256 streams run at once through both services, with the real scheduler and a model that costs
nothing, and nothing goes wrong. Each pair is one batch in each checkout, both at the same time and
paced, so that whatever else the machine does meets both alike. The result is the mean ratio of new
over old and its 95 % interval, for each service and for both together; the limit is for both.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
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
_NUM_STREAMS, _NUM_TOKENS, _PROMPT_TOKENS = 256, 128, 16
_PACE_SECONDS = 0.05
"""Between two steps, so that no service falls behind and merges what it sends: two cores suffice
for both checkouts and their callers."""
_ENGINE_FLAGS = (
    *("--device", "cpu", "--max-num-seqs", str(_NUM_STREAMS), "--max-num-batched-tokens", "4096"),
    *("--num-blocks", "8192", "--speculation", "none"),
)
_VOCAB_SIZE = 2048


class Checkout:
    """Both services of a checkout, running."""

    def __init__(self, engine: Service, front_end: Service, stub: Any) -> None:
        self._engine, self._front_end, self._stub = engine, front_end, stub

    async def microseconds(self, asks: list[Ask]) -> dict[str, float]:
        """Processor time a token of one batch, by service."""
        services = {"engine service": self._engine, "tokenizer service": self._front_end}
        before = {name: service.cpu_seconds() for name, service in services.items()}
        calls = [
            Call(self._stub, ask, f"price {number}", Manner(timeout=120))
            for number, ask in enumerate(asks)
        ]
        await asyncio.gather(*(call.task for call in calls))
        for call in calls:
            _check(call)
        num_tokens = len(asks) * _NUM_TOKENS
        used = {
            name: (service.cpu_seconds() - before[name]) / num_tokens * 1e6
            for name, service in services.items()
        }
        return used | {BOTH: sum(used.values())}


async def price(report: Report, checkout: Path, pairs: int) -> None:
    """Compares this checkout with another one."""
    ratios: dict[str, list[float]] = {}
    async with running(checkout) as old, running(ROOT) as new:
        for pair in range(pairs + 1):
            asks = [
                generate(f"{pair}.{number}", _PROMPT_TOKENS, params(_NUM_TOKENS))
                for number in range(_NUM_STREAMS)
            ]
            sides = (old, new) if pair % 2 else (new, old)
            found = await asyncio.gather(*(side.microseconds(asks) for side in sides))
            used = dict(zip(sides, found, strict=True))
            before, after = used[old], used[new]
            if pair:  # the first one warms up
                for name in after:
                    ratios.setdefault(name, []).append(after[name] / before[name])
                print(f"pair {pair}: {before[BOTH]:.1f}, now {after[BOTH]:.1f} µs a token")
    for name, values in ratios.items():
        mean, low, high = interval(values)
        note = f"{mean:.3f} (95 %: {low:.3f} to {high:.3f}), {pairs} pairs"
        over = high > MAX_RATIO and name == BOTH
        too_dear = [f"the upper bound is {high:.3f}, over {MAX_RATIO}"] if over else []
        report.add(f"price: {name}", too_dear, note)


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


def _check(call: Call) -> None:
    """What is fast and wrong has no price."""
    message = call.record.ask.message
    assert isinstance(message, messages.GenerateRequest)
    seed = message.sampling_params.seed
    expected = expected_tokens(message.token_ids.ids, _NUM_TOKENS, _VOCAB_SIZE, seed)
    assert call.record.reference().token_ids == (tuple(expected),), call.record.name
