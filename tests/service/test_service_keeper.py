"""A service that ends or hangs is started again, over stand-ins that are real processes."""

import asyncio
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from folovllm_client.launch import liveness, service_keeper
from folovllm_client.launch.service_commands import free_ports
from folovllm_client.launch.service_keeper import Upkeep
from folovllm_client.launch.service_process import ServiceEndedError, ServiceProcess
from folovllm_client.launch.supervisor import Supervisor, until_serving

ROOT = Path(__file__).parents[2]
NAME = "tokenizer service"
FAILING = "import sys; print('error: no weights', file=sys.stderr); sys.exit(3)"
STUBBORN = """
import faulthandler, signal
faulthandler.enable()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("running", flush=True)
while True:
    signal.pause()
"""


class Lines:
    """Keeps lines, and waits for them."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._new = asyncio.Event()

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        self._new.set()

    async def until(self, text: str, times: int = 1) -> None:
        while sum(text in line for line in self.lines) < times:
            self._new.clear()
            await asyncio.wait_for(self._new.wait(), 30)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_keeper, "_PAUSE", 0.001)
    monkeypatch.setattr(liveness, "_INTERVAL", 0.1)
    path = os.pathsep.join(map(str, (ROOT, ROOT / "client", ROOT / "tests")))
    monkeypatch.setenv("PYTHONPATH", path)


def children(port: int) -> list[psutil.Process]:
    return [each for each in psutil.Process().children() if str(port) in each.cmdline()]


async def test_a_service_that_ends_or_hangs_is_started_again() -> None:
    [port] = free_ports(1)
    address, log, restarts = f"127.0.0.1:{port}", Lines(), Lines()
    command = [sys.executable, "-m", "support.fakes.tokenizer_service", str(port)]
    services = Supervisor({NAME: command}, address, log)
    await services.start()
    await services.ready()
    upkeep = Upkeep(address, hang_timeout=1.0, stop_timeout=5.0)
    keeping = asyncio.create_task(services.keep_running({NAME: upkeep}, restarts))

    children(port)[0].kill()
    await restarts.until("the tokenizer service ended: SIGKILL killed it; it is started again")
    await until_serving(address)
    await log.until("fake: serving", 2)

    # Answers at least once before: how long a start takes is not known.
    await asyncio.sleep(3 * liveness._INTERVAL)
    children(port)[0].send_signal(signal.SIGSTOP)
    await restarts.until("the tokenizer service ended: it did not answer for 1 s")
    await until_serving(address)
    await log.until("fake: serving", 3)

    # A stop does not wait for one that hangs.
    children(port)[0].send_signal(signal.SIGSTOP)
    keeping.cancel()
    with suppress(asyncio.CancelledError):
        await keeping
    async with asyncio.timeout(4):
        await services.stop()
    assert children(port) == []
    assert len(restarts.lines) == 2


async def test_a_service_that_only_fails_is_given_up_with_its_reason() -> None:
    restarts = Lines()
    services = Supervisor({NAME: [sys.executable, "-c", FAILING]}, "127.0.0.1:1", Lines())
    await services.start()
    upkeep = Upkeep("127.0.0.1:1", hang_timeout=9.0, stop_timeout=5.0)
    with pytest.raises(ServiceEndedError) as ended:
        await services.keep_running({NAME: upkeep}, restarts)
    assert str(ended.value) == "the tokenizer service ended 5 times in a row: no weights"
    assert [line.rpartition(" in ")[2] for line in restarts.lines] == [
        "0.001 s",
        "0.002 s",
        "0.004 s",
        "0.008 s",
    ]


async def test_a_service_that_does_not_heed_a_stop_leaves_its_stacks_and_is_ended() -> None:
    log = Lines()
    service = ServiceProcess(NAME, [sys.executable, "-c", STUBBORN], log)
    await service.start()
    await log.until("running")
    await service.stop(0.1)
    assert await service.ended() == "SIGABRT killed it"
    assert "Fatal Python error: Aborted" in log.lines


async def test_lines_are_read_whatever_becomes_of_them() -> None:
    def full(line: str) -> None:
        raise OSError(28, "No space left on device")

    program = "for _ in range(5000): print('x' * 100)\nprint('error: over')\nraise SystemExit(1)"
    service = ServiceProcess(NAME, [sys.executable, "-c", program], full)
    await service.start()
    async with asyncio.timeout(30):
        assert await service.ended() == "over"
