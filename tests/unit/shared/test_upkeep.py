"""When a service gives memory back: once it rests, or when a lot has come together."""

import asyncio
import sys

import pytest

from folovllm.serving.memory import upkeep as module
from folovllm.serving.memory.upkeep import Upkeep, keep_memory_low

MB = 1024 * 1024
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is resident")


def test_memory_is_returned_once_after_work() -> None:
    upkeep = Upkeep(100 * MB)
    assert not upkeep.is_due(101 * MB, 1.0, 0.01), "nothing has happened"
    assert not upkeep.is_due(150 * MB, 1.0, 0.9), "it works"
    assert upkeep.is_due(150 * MB, 1.0, 0.1) and upkeep.rests
    upkeep.returned(148 * MB)
    assert not upkeep.is_due(148 * MB, 1.0, 0.01), "it is in use"
    assert upkeep.is_due(152 * MB, 1.0, 0.01), "little work, much memory"


def test_a_process_that_never_rests_returns_what_is_worth_it() -> None:
    upkeep = Upkeep(100 * MB)
    assert not upkeep.is_due(164 * MB, 2.0, 1.0)
    assert upkeep.is_due(165 * MB, 2.0, 1.0) and not upkeep.rests
    upkeep.returned(160 * MB)
    assert not upkeep.is_due(180 * MB, 2.0, 1.0)
    assert upkeep.is_due(160 * MB, 2.0, 0.1), "what was in use may be free now"


@linux
async def test_it_goes_on_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    returned = asyncio.Event()
    loop = asyncio.get_running_loop()
    sizes = iter([100 * MB, 200 * MB])
    monkeypatch.setattr(module, "_INTERVAL", 0.0)
    monkeypatch.setattr(module, "_resident", lambda: next(sizes, 300 * MB))
    monkeypatch.setattr(
        module, "return_free_memory", lambda: loop.call_soon_threadsafe(returned.set)
    )
    task = asyncio.create_task(keep_memory_low())
    async with asyncio.timeout(60):
        await returned.wait()
    assert not task.done()
    task.cancel()


@linux
def test_what_is_resident_is_told_in_bytes() -> None:
    assert 10 * MB < module._resident() < 100_000 * MB
