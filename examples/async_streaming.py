"""Streams three answers at once from a running server (`folovllm serve`).

python examples/async_streaming.py [HOST:PORT]
"""

import asyncio
import sys

from folovllm import AsyncClient, SamplingParams


async def tell(client: AsyncClient, prompt: str, seed: int) -> str:
    """Reads one answer piece by piece."""
    text, pieces = "", 0
    params = SamplingParams(max_tokens=40, seed=seed)
    async for output in client.stream(prompt, params, timeout=60):
        text += output.text
        pieces += 1
        if output.usage:
            print(f"seed {seed}: {output.usage.completion_tokens} tokens in {pieces} pieces")
    return text


async def main(address: str) -> None:
    """Three stories at the same time."""
    async with AsyncClient(address) as client:
        stories = await asyncio.gather(*(tell(client, "Once upon a time", i) for i in range(3)))
    for story in stories:
        print(f"Once upon a time{story}\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "localhost:50051"))
