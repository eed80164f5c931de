"""How long prompts hold up other streams: gaps between deltas while long texts are encoded.

    python -m benchmarks.services.long_prompts [--model MODEL] [--prompt-tokens 100000]

One worker of the tokenizer service, before an engine that brings each stream an id every so many
milliseconds. A stream's gaps are timed alone, and while prompts of so many tokens come one after
another, each a text of its own, so that nothing of it is known from before. This process only
reads the stream; another one sends the prompts.
"""

import argparse
import asyncio
import multiprocessing
import random
import statistics
import time
from collections.abc import Sequence

from benchmarks.harness import machine
from benchmarks.services.replay_services import replay_services
from folovllm.model_files import CONFIG_PATTERNS, resolve_model
from folovllm.sampling_params import SamplingParams
from folovllm_client.api.async_client import AsyncClient
from folovllm_client.api.sync_client import Client
from tokenizer_service.text.tokenizer import Tokenizer


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", help="folder or hub id of the tokenizer (the embedded one)")
    parser.add_argument("--prompt-tokens", type=int, default=100_000, help="(%(default)s)")
    parser.add_argument("--prompts", type=int, default=20, help="(%(default)s)")
    parser.add_argument("--step-ms", type=float, default=10.0, help="of the engine (%(default)s)")
    args = parser.parse_args()
    folder = str(resolve_model(args.model, CONFIG_PATTERNS))
    prompts = _prompts(folder, args.prompt_tokens, args.prompts)
    print(machine.describe())
    alone, beside = asyncio.run(_measure(folder, prompts, args.step_ms))
    print(f"\n{'gap between deltas, ms':<34}{'median':>9}{'p99':>9}{'longest':>9}")
    for name, gaps in (("alone", alone), (f"{len(prompts)} prompts meanwhile", beside)):
        p99 = statistics.quantiles(gaps, n=100)[-1]
        print(f"{name:<34}{statistics.median(gaps):>9.1f}{p99:>9.1f}{max(gaps):>9.1f}")


def _prompts(folder: str, num_tokens: int, count: int) -> list[str]:
    """Different texts of about so many tokens."""
    tokenizer, rng = Tokenizer.from_folder(resolve_model(folder, CONFIG_PATTERNS)), random.Random(0)
    words = ["the", "river", "runs", "under", "an", "old", "bridge", "and", "Anna", "counts", "7"]
    text = " ".join(rng.choices(words, k=num_tokens))
    length = len(text) * num_tokens // len(tokenizer.encode(text))
    return [" ".join(rng.choices(words, k=2 * num_tokens))[:length] for _ in range(count)]


async def _measure(
    folder: str, prompts: Sequence[str], step_ms: float
) -> tuple[list[float], list[float]]:
    async with (
        replay_services(folder, step_ms) as services,
        AsyncClient(services.address) as client,
    ):
        alone = await _gaps(client, 500)
        sender = multiprocessing.get_context("spawn").Process(
            target=_send, args=(services.address, prompts)
        )
        sender.start()
        beside: list[float] = []
        while sender.is_alive():
            beside += await _gaps(client, 100)
        return alone, beside


async def _gaps(client: AsyncClient, num_tokens: int) -> list[float]:
    """Milliseconds from each delta of a stream to the next."""
    times: list[float] = []
    async for _ in client.stream("Once", SamplingParams(max_tokens=num_tokens)):
        times.append(time.perf_counter() * 1e3)
    return [later - earlier for earlier, later in zip(times, times[1:], strict=False)]


def _send(address: str, prompts: Sequence[str]) -> None:
    """Asks for one token of each prompt."""
    with Client(address) as client:
        for prompt in prompts:
            client.generate(prompt, SamplingParams(max_tokens=1))


if __name__ == "__main__":
    main()
