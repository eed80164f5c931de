"""Ground: a site that is warm, and what is seen beside a load that does no harm."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from chaos.attacks.beside import Beside, Seen, watched
from chaos.attacks.squad import Squad
from chaos.callers.ask import Ask, Reference, chat, generate, grammar, once, params
from chaos.callers.call import reference_of
from chaos.processes.site import Site, front_end_stub, running_site
from folovllm.v1 import types_pb2

HARMLESS = "harmless"
_LONG_MODEL_LEN = 40_960
"""The context of the model that costs nothing."""
_STEP_SECONDS = 0.01
"""Between two steps: what callers on one host with the services take of its processors must not
decide what is seen."""
_FLAGS = (
    *("--max-num-seqs", "64", "--num-blocks", "4096"),
    # A prompt of any length holds up the streams beside it for less than what is looked for.
    *("--max-num-batched-tokens", "256"),
)
_REAL_FLAGS = ("--device", "cpu")
"""As a user starts it: with the kernels, and in the type, that it computes with by default."""
_FAKE_FLAGS = ("--device", "cpu", "--speculation", "none", "--max-model-len", str(_LONG_MODEL_LEN))
_WARM_UP_CALLS = 10
_MIN_HARMLESS_SECONDS = 10.0
"""Until then allocators and caches still find their size."""
_CANARY_TOKENS = 2000
"""Of one stream: where the queue is full, the next one waits."""


@dataclass(frozen=True)
class Ground:
    """A site, and what holds there when nobody attacks."""

    site: Site
    references: dict[Ask, Reference]
    canary: Ask
    harmless: Seen


@asynccontextmanager
async def running_ground(fake: bool, seconds: float, seed: int) -> AsyncIterator[Ground]:
    """A site, warmed up, on which harmless load ran for so many seconds."""
    real_flags = _FAKE_FLAGS if fake else _REAL_FLAGS
    async with running_site(_FLAGS, fake=fake, real_flags=real_flags) as site:
        # An engine has it from its start, so it is nothing that an attack takes.
        await site.engines[0].service.ask("touch_cache")
        canary = generate("canary", 24, params(_CANARY_TOKENS))
        async with front_end_stub(site.front_end.address) as stub:
            references = {canary: await reference_of(stub, canary, "reference of the canary")}
            asks = _innocent_asks(fake)
            for number in range(_WARM_UP_CALLS):
                for ask in asks:
                    references[ask] = await reference_of(stub, ask, f"warm-up {number}")
        await site.engines[0].service.ask("pace", _STEP_SECONDS)
        lasting = max(seconds, _MIN_HARMLESS_SECONDS)
        seen = await seen_beside(site, references, canary, HARMLESS, lasting, seed)
        if seen.canary or seen.refused:
            raise AssertionError(f"beside harmless load: {[*seen.canary, *seen.refused][:3]}")
        yield Ground(site, references, canary, seen)


async def seen_beside(
    site: Site,
    references: dict[Ask, Reference],
    canary: Ask,
    load: str,
    seconds: float,
    seed: int,
) -> Seen:
    """What is seen beside a load that is no attack."""
    async with Squad(site, load, seed) as squad, Beside(site, references, canary, load) as beside:
        await beside.until_running()
        squad.go()
        await watched(beside, seconds)
        await squad.stop()
    return beside.seen


def _innocent_asks(fake: bool) -> list[Ask]:
    """Small requests of all kinds that the model has."""
    asks = [
        generate("short", 16, params(16)),
        once(generate("once", 40, params(8))),
        generate("seeded", 20, params(12, temperature=1.0, seed=5, n=2)),
        chat("chat", 12),
    ]
    if fake:
        return asks
    schema = '{"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}'
    return [
        *asks,
        grammar("grammar", 8),
        generate("schema", 16, params(8, json_schema=schema)),
        generate("any object", 16, params(8, json_object=types_pb2.AnyJsonObject())),
    ]
