"""Rest: what a site holds while nobody asks anything of it, to be found again afterwards."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass

import grpc

from chaos.processes.service import ControlError, Service
from chaos.processes.site import Engine, Site

_SPARE_DESCRIPTORS = 6
"""Connections that gRPC has not closed yet, or opens anew."""
_KEPT_TASKS = {"ServerProcess._listen": 1}
"""Of the process that builds grammars: it starts with the first one, and stays for the next."""


@dataclass(frozen=True, slots=True)
class Held:
    """What one service holds. Blocks are an engine's alone."""

    tasks: Mapping[str, int]
    """Their number by the name of their coroutine."""
    num_descriptors: int
    num_free_blocks: int = 0
    num_requests: int = 0

    def beyond(self, before: "Held") -> list[str]:
        """What it holds more than before, in words."""
        found = []
        if self.num_requests:
            found.append(f"{self.num_requests} requests")
        if self.num_free_blocks < before.num_free_blocks:
            found.append(f"{before.num_free_blocks - self.num_free_blocks} KV blocks")
        for name, number in self.tasks.items():
            allowed = max(before.tasks.get(name, 0), _KEPT_TASKS.get(name, 0))
            if number > allowed:
                found.append(f"{number - allowed} tasks of {name}")
        if self.num_descriptors > before.num_descriptors + _SPARE_DESCRIPTORS:
            found.append(f"{self.num_descriptors - before.num_descriptors} descriptors")
        return found


@dataclass(frozen=True, slots=True)
class Rest:
    """What a site's processes hold, by what they are called."""

    held: dict[str, Held]

    async def problems(self, site: Site, within: float) -> list[str]:
        """What is held longer than `within` seconds that was not held before."""
        deadline = time.monotonic() + within
        while True:
            try:
                now = await at_rest(site)
                found = [
                    f"{name} still holds {what}"
                    for name, held in now.held.items()
                    for what in held.beyond(self.held[name])
                ]
            except (ControlError, grpc.aio.AioRpcError) as error:
                found = [f"a service does not say what it holds: {str(error)[:120]}"]
            if not found or time.monotonic() > deadline:
                return found
            await asyncio.sleep(0.1)


async def at_rest(site: Site) -> Rest:
    """What is held now."""
    held = {"the front end": await _held(site.front_end)}
    for number, engine in enumerate(site.engines):
        held[f"engine {number}"] = await _held_by_engine(engine)
    return Rest(held)


async def _held(service: Service) -> Held:
    return Held(await service.ask("tasks"), service.num_descriptors())


async def _held_by_engine(engine: Engine) -> Held:
    held, load = await _held(engine.service), await engine.load()
    return Held(held.tasks, held.num_descriptors, load.num_free_kv_blocks, load.num_requests)
