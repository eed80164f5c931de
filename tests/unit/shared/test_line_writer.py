"""LineWriter and LineStream over pipes whose other end stops, goes away or is full."""

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from folovllm.serving.output import line_writer
from folovllm.serving.output.line_stream import LineStream
from folovllm.serving.output.line_writer import LineWriter
from folovllm.serving.output.standard_streams import dropped_line

ROOT = Path(__file__).parents[3]
BLOCKED = 0.5  # seconds that no call may take, on a busy machine


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    for fd in (reading, writing):
        with suppress(OSError):  # a test may have closed it
            os.close(fd)


def writer_to(fd: int, *, threaded: bool = True) -> LineWriter:
    return LineWriter(fd, dropped_line, threaded=threaded)


def read_all(fd: int, writer: LineWriter) -> list[str]:
    """What comes until the queue is written, read as it comes."""
    data = bytearray()

    def finish() -> None:
        writer.finish(20)
        os.close(writer.fd)

    finishing = threading.Thread(target=finish)
    finishing.start()
    while chunk := os.read(fd, 65536):
        data += chunk
    finishing.join()
    return data.decode().splitlines()


def flood(writer: LineWriter, lines: int) -> float:
    """Writes numbered lines of 100 bytes; the longest time that one took."""
    longest = 0.0
    for number in range(lines):
        started = time.monotonic()
        writer.write(f"{number:<99}\n")
        longest = max(longest, time.monotonic() - started)
    return longest


def test_lines_come_in_order_and_at_once(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    writer = writer_to(writing)
    writer.write("ready\n")
    assert os.read(reading, 100) == b"ready\n"  # without any other line after it
    lines = [f"{number} " + "x" * random.Random(number).randint(0, 9000) for number in range(200)]
    for line in lines:
        writer.write(f"{line}\n")
    assert read_all(reading, writer) == lines


def test_a_reader_that_stops_costs_nothing_but_lines(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_writer, "_MAX_QUEUED_BYTES", 500_000)
    reading, writing = pipe
    writer = writer_to(writing)
    assert flood(writer, 9000) < BLOCKED
    assert 2000 < writer.num_dropped < 5000
    lines = read_all(reading, writer)
    reports = [line for line in lines if line.startswith("warning")]
    assert sum(int(line.split()[1]) for line in reports) == writer.num_dropped
    numbers = [int(line) for line in lines if line not in reports]
    assert numbers == sorted(numbers) and len(numbers) == 9000 - writer.num_dropped


@pytest.mark.parametrize("threaded", [True, False])
def test_a_reader_that_is_gone_costs_nothing_but_lines(
    pipe: tuple[int, int], threaded: bool
) -> None:
    reading, writing = pipe
    os.close(reading)
    writer = writer_to(writing, threaded=threaded)
    assert flood(writer, 1000) < BLOCKED
    writer.finish(20)
    assert writer.num_dropped == 1000


@pytest.mark.parametrize("threaded", [True, False])
def test_a_full_disk_costs_nothing_but_lines(threaded: bool) -> None:
    with Path("/dev/full").open("w") as full:
        writer = writer_to(full.fileno(), threaded=threaded)
        assert flood(writer, 1000) < BLOCKED
        writer.finish(20)
        assert writer.num_dropped == 1000


def test_without_a_thread_nothing_is_waited_for(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    writer = writer_to(writing, threaded=False)
    before = threading.active_count()
    assert flood(writer, 1000) < BLOCKED
    assert threading.active_count() == before
    assert 0 < writer.num_dropped < 1000
    kept = 1000 - writer.num_dropped
    whole = os.read(reading, 1_000_000).decode().split("\n")
    assert [int(line) for line in whole if line.strip()] == list(range(kept))
    dropped = writer.num_dropped
    writer.write("again\n")
    *report, last = os.read(reading, 10_000).decode().splitlines()
    assert f"{report[-1]}\n" == dropped_line(dropped) and last == "again"


def test_a_line_of_which_only_the_beginning_fits_is_broken_off(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    writer = writer_to(writing, threaded=False)
    writer.write("x" * 100_000 + "\n")
    assert writer.num_dropped == 1
    os.read(reading, 1_000_000)
    writer.write("next\n")
    assert os.read(reading, 10_000).decode().splitlines()[-1] == "next"


def test_the_end_of_the_process_waits_for_a_stopped_reader_only_so_long(
    pipe: tuple[int, int],
) -> None:
    reading, writing = pipe
    writer = writer_to(writing)
    flood(writer, 2000)
    started = time.monotonic()
    writer.finish(0.05)
    assert 0.05 <= time.monotonic() - started < BLOCKED
    assert flood(writer, 10) < BLOCKED, "later lines are not waited for either"
    assert len(read_all(reading, writer)) == 2010


def test_a_stream_passes_on_whole_lines_and_what_is_flushed(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    stream = LineStream(writer_to(writing, threaded=False))
    print("a", 1, file=stream)
    assert os.read(reading, 100) == b"a 1\n"
    stream.write("progress \ud800")
    stream.flush()
    assert os.read(reading, 100) == b"progress \\ud800"
    assert not stream.isatty() and stream.fileno() == writing


PROGRAM = """
import ctypes, logging, os, sys, warnings
import structlog
from folovllm.serving.logs import LogConfig, configure_logging, forward_logging
from folovllm.serving.output.standard_streams import num_dropped_lines

class Unprintable:
    def __repr__(self):
        raise RuntimeError("no")

def log_everywhere():
    log = structlog.get_logger()
    for number in range(100):
        log.info("structured", text="x" * 1000)
        logging.getLogger("a.library").error("plain %d", number, "too many")
        logging.getLogger("other").error("x" * 200)
        warnings.warn("careful " + str(number))
        print("printed", "x" * 200)
        log.info("bad", value=Unprintable())
        try:
            raise ValueError("bug " + "x" * 500)
        except ValueError:
            log.exception("failed")
        ctypes.CDLL(None).write(2, b"from C\\n" * 20, 140)

configure_logging(LogConfig("json"), threaded=False)
forward_logging("a")
log_everywhere()
pid = os.fork()
configure_logging(LogConfig("json"))
log_everywhere()
print("the end", num_dropped_lines() > 0, file=open(sys.argv[1] + ("" if pid else "child"), "w"))
if pid:
    os.waitpid(pid, 0)
"""


@pytest.mark.parametrize("fault", ["full", "gone", "stopped"])
def test_no_way_to_log_blocks_or_fails(fault: str, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    if fault == "gone":
        os.close(reading)
    with Path("/dev/full").open("w") as full:
        output = full.fileno() if fault == "full" else writing
        result = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path / "end")],
            stdout=output,
            stderr=output,
            cwd=ROOT,
            timeout=30,
            check=False,
        )
    os.close(writing)
    if fault != "gone":
        os.close(reading)
    assert result.returncode == 0
    assert (tmp_path / "end").read_text().startswith("the end")
    assert (tmp_path / "endchild").read_text().startswith("the end")


def test_a_traceback_at_the_start_reaches_standard_error() -> None:
    program = "from folovllm.serving.logs import *; configure_logging(LogConfig()); 1 / 0"
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == "ZeroDivisionError: division by zero"


def test_an_end_after_cleanup_loses_nothing() -> None:
    code = (
        "import atexit, sys\n"
        "from folovllm.serving.output.standard_streams import exit_after_cleanup\n"
        "atexit.register(print, 'cleaned up')\n"
        "class Heavy:\n"
        "    def __del__(self): print('freed')\n"
        "kept = Heavy()\n"
        "print('hello')\n"
        "exit_after_cleanup(3)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (3, "hello\ncleaned up\n", "")
