"""FolovLLM as it is served: both services as processes, asked through AsyncClient."""

import asyncio
import sys
import time
from contextlib import aclosing
from typing import Any

from benchmarks.harness.batch_clock import BatchClock
from benchmarks.harness.open_loop import Arrival, from_json
from benchmarks.peers.folovllm_engine import engine_config, quantization, sampling
from benchmarks.peers.peer import PeerConfig
from folovllm.version import __version__
from folovllm_client.api.async_client import AsyncClient
from folovllm_client.launch.service_commands import ServeOptions, free_ports, service_commands
from folovllm_client.launch.supervisor import Supervisor


class Services:
    """A tokenizer service and its engine service, and a client of them in this process."""

    version = __version__

    def __init__(self, config: PeerConfig) -> None:
        port, engine_port = free_ports(2)
        options = ServeOptions(
            port=port,
            engine_port=engine_port,
            model=config.model,
            quantization=quantization(config.weight_format),
            max_num_seqs=config.max_num_seqs,
            speculation="none",
        )
        num_blocks = engine_config(config).cache.num_blocks
        commands = service_commands(options)
        commands["engine service"] += ["--num-blocks", str(num_blocks)]
        self._runner = asyncio.Runner()
        self._services = Supervisor(commands, options.address, _print_to_standard_error)
        self._runner.run(self._start())
        self._client = self._runner.run(_connect(options.address))

    def generate(self, prompts: list[list[int]], new_tokens: int) -> BatchClock:
        """See Peer."""
        return self._runner.run(self._generate(prompts, new_tokens))

    def serve(self, arrivals: list[Any]) -> list[list[float]]:
        """Sends each Arrival in its time; for each the seconds at which its tokens came."""
        return self._runner.run(self._serve(from_json(arrivals)))

    def close(self) -> None:
        """Stops both services."""
        self._runner.run(self._client.close())
        self._runner.run(self._services.stop())
        self._runner.close()

    async def _start(self) -> None:
        await self._services.start()
        try:
            await self._services.ready()
        except BaseException:
            await self._services.stop()
            raise

    async def _generate(self, prompts: list[list[int]], new_tokens: int) -> BatchClock:
        clock = BatchClock(len(prompts))

        async def one(index: int) -> None:
            stream = self._client.stream(prompts[index], sampling(new_tokens))
            async with aclosing(stream) as pieces:
                async for piece in pieces:
                    clock.add(index, len(piece.token_ids))

        await asyncio.gather(*map(one, range(len(prompts))))
        return clock

    async def _serve(self, arrivals: list[Arrival]) -> list[list[float]]:
        started = time.perf_counter()

        async def one(arrival: Arrival) -> list[float]:
            times: list[float] = []
            await asyncio.sleep(arrival.time_s - (time.perf_counter() - started))
            stream = self._client.stream(arrival.prompt_token_ids, sampling(arrival.new_tokens))
            async with aclosing(stream) as pieces:
                async for piece in pieces:
                    times += [time.perf_counter() - started] * len(piece.token_ids)
            return times

        return list(await asyncio.gather(*map(one, arrivals)))


async def _connect(address: str) -> AsyncClient:
    return AsyncClient(address)


def _print_to_standard_error(line: str) -> None:
    print(line, file=sys.stderr)
