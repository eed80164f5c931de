"""Work on daemon threads: results, errors, cancelling, and a process that ends regardless."""

import asyncio
import subprocess
import sys
import threading

import pytest

from tokenizer_service.text.daemon_thread_pool import DaemonThreadPool


async def test_results_and_errors_come_back() -> None:
    threads = DaemonThreadPool(2, "test")
    assert await threads.run(lambda: threading.current_thread().name) in ("test-0", "test-1")
    with pytest.raises(ZeroDivisionError):
        await threads.run(lambda: 1 // 0)
    with pytest.raises(SystemExit):  # ends the work, not the thread
        await threads.run(sys.exit)
    assert await asyncio.gather(*(threads.run(lambda: 1) for _ in range(8))) == [1] * 8


async def test_no_more_than_count_run_and_cancelled_work_never_begins() -> None:
    threads = DaemonThreadPool(1, "test")
    begun, go = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    ran: list[str] = []

    def hold() -> None:
        loop.call_soon_threadsafe(begun.set)
        go.wait()
        ran.append("held")

    first = asyncio.create_task(threads.run(hold))
    await begun.wait()
    waiting = asyncio.create_task(threads.run(lambda: ran.append("waiting")))
    last = asyncio.create_task(threads.run(lambda: ran.append("last")))
    await asyncio.sleep(0)
    waiting.cancel()
    first.cancel()
    for cancelled in (waiting, first):
        with pytest.raises(asyncio.CancelledError):
            await cancelled
    assert ran == []
    go.set()
    await last
    assert ran == ["held", "last"]


async def test_the_threads_end_with_their_owner() -> None:
    threads = DaemonThreadPool(2, "short-lived")
    await threads.run(lambda: None)
    mine = [thread for thread in threading.enumerate() if thread.name.startswith("short-lived")]
    assert len(mine) == 2
    del threads
    for thread in mine:
        await asyncio.to_thread(thread.join, 20)
        assert not thread.is_alive()


def test_a_process_does_not_wait_for_work_that_never_ends() -> None:
    code = """
import asyncio, threading
from tokenizer_service.text.daemon_thread_pool import DaemonThreadPool

async def main():
    threads = DaemonThreadPool(1, "test")
    try:
        async with asyncio.timeout(0.05):
            await threads.run(threading.Event().wait)
    except TimeoutError:
        print("gave up")

asyncio.run(main())
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=99)
    assert (ended.stdout, ended.stderr, ended.returncode) == ("gave up\n", "", 0)
