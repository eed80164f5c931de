"""Whether the tokenizer service keeps its memory: many short chats, and what is left of them.

    python -m benchmarks.services.chat_soak [--chats 100000] [--at-once 64]

Asks one worker of the service, before an engine that replays ids, and prints the resident memory of
its process after a tenth of the chats, which warm it up, and after all; and the processor time that
it takes while nothing is asked.
"""

import argparse
import asyncio
import time

from benchmarks.harness import machine
from benchmarks.services.replay_services import Services, replay_services
from folovllm.model_files import DEMO_MODEL
from folovllm.sampling_params import SamplingParams
from folovllm_client.api.async_client import AsyncClient

_MAX_TOKENS = 4
_MIB = 2**20


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--chats", type=int, default=100_000, help="in all (%(default)s)")
    parser.add_argument("--at-once", type=int, default=64, help="(%(default)s)")
    parser.add_argument("--idle", type=float, default=10.0, help="seconds (%(default)s)")
    args = parser.parse_args()
    print(machine.describe())
    asyncio.run(_soak(args.chats, args.at_once, args.idle))


async def _soak(num_chats: int, at_once: int, idle_seconds: float) -> None:
    async with (
        replay_services(str(DEMO_MODEL)) as services,
        AsyncClient(services.address) as client,
    ):
        await _chat(client, num_chats // 10, at_once, 0)
        warm = services.process.memory_info().rss
        started = time.monotonic()
        await _chat(client, num_chats - num_chats // 10, at_once, num_chats)
        seconds = time.monotonic() - started
        grown = services.process.memory_info().rss - warm
        rate = (num_chats - num_chats // 10) / seconds
        print(
            f"{num_chats:,} chats, {rate:,.0f} a second: {warm / _MIB:.1f} MiB when warm,", end=""
        )
        print(f" {grown / _MIB:+.1f} MiB after all")
        print(f"idle: {await _idle(services, idle_seconds):.3f} s of processor in {idle_seconds} s")


async def _chat(client: AsyncClient, num_chats: int, at_once: int, first: int) -> None:
    """Asks, every time something else, and checks that each answer is whole."""
    numbers = iter(range(first, first + num_chats))
    params = SamplingParams(max_tokens=_MAX_TOKENS)

    async def one_after_another() -> None:
        for number in numbers:
            result = await client.chat(f"What is {number} + 1?", sampling_params=params)
            assert result.finished and len(result.answers[0].token_ids) == _MAX_TOKENS

    await asyncio.gather(*[one_after_another() for _ in range(at_once)])


async def _idle(services: Services, seconds: float) -> float:
    before = services.process.cpu_times()
    await asyncio.sleep(seconds)
    after = services.process.cpu_times()
    return after.user + after.system - before.user - before.system


if __name__ == "__main__":
    main()
