"""What `serve` shows of both services at a terminal, and where there is none."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from folovllm.serving.logs import LogConfig, LogFormat, LogLevel
from folovllm.v1 import types_pb2
from folovllm_client.cli.serve import engine_load, status_line
from folovllm_client.cli.serve.engine_load import Load, follow_load
from folovllm_client.cli.serve.log_lines import LogLines
from folovllm_client.cli.serve.run import supervise
from folovllm_client.cli.serve.status_line import StatusText
from folovllm_client.launch.service_commands import ServeOptions
from folovllm_client.launch.supervisor import Supervisor
from support.fakes.engine import FakeEngine, running
from support.processes.engine_sessions import EngineFixture, ask

ROOT = Path(__file__).parents[2]
REQUEST = json.dumps({"event": "call", "level": "info", "method": "/Generate"})
FAILED_REQUEST = json.dumps({"event": "call", "level": "warning", "method": "/Fork"})
READY = json.dumps({"event": "ready", "level": "info"})
FAILURE = "error: no weights"
LINES = (READY, REQUEST, FAILED_REQUEST, "from a library", FAILURE)


class Screen:
    """A pseudo-terminal that takes the place of standard error."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._text = ""

    async def until(self, text: str) -> str:
        """All that came before, and the text."""
        while text not in self._text:
            await asyncio.sleep(0)
            self._text += self.read()
        before, found, self._text = self._text.partition(text)
        return before + found

    def read(self) -> str:
        """What is there now."""
        try:
            return os.read(self._fd, 65536).decode()
        except BlockingIOError:
            return ""


@contextmanager
def at_terminal(name: str = "xterm") -> Iterator[Screen]:
    """Standard error is a terminal; in the test itself, as pytest captures anew for it."""
    master, slave = os.openpty()
    os.set_blocking(master, False)
    with (
        pytest.MonkeyPatch.context() as patch,
        os.fdopen(slave, "w", buffering=1) as terminal,
    ):
        patch.setenv("TERM", name)
        patch.setenv("COLUMNS", "100")
        patch.setattr(sys, "stderr", terminal)
        yield Screen(master)
    os.close(master)


def shown(
    log_format: LogFormat = "auto", log_level: LogLevel = "info", terminal: str = "xterm"
) -> str:
    with at_terminal(terminal) as screen:
        logs = LogLines(LogConfig(log_format, log_level))
        assert logs.live is (log_format == "auto" and terminal == "xterm")
        for line in LINES:
            logs(line)
        print("the end", file=sys.stderr)
        text = ""
        while "the end" not in text:  # the kernel hands over what was written in its own time
            text += screen.read()
        return text.partition("the end")[0]


def test_at_a_terminal_lines_are_text_and_those_of_requests_are_left_out() -> None:
    text = shown()
    assert "ready" in text and "from a library" in text and '"event"' not in text
    assert "/Fork" in text and "/Generate" not in text
    assert "no weights" not in text, "it is to be the last line of all"


def test_at_the_level_of_debug_they_are_there() -> None:
    assert "/Generate" in shown(log_level="debug")


def test_a_terminal_that_cannot_move_its_cursor_gets_all_lines() -> None:
    assert "/Generate" in shown(terminal="dumb")


def test_a_format_that_was_asked_for_is_passed_on() -> None:
    assert shown("json").splitlines() == [*LINES[:-1]]


def test_without_a_terminal_lines_stay_json(capsys: pytest.CaptureFixture[str]) -> None:
    logs = LogLines(LogConfig())
    for line in LINES:
        logs(line)
    assert not logs.live and capsys.readouterr().err.splitlines() == [*LINES[:-1]]


async def test_the_status_line_follows_the_engine_below_the_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (ROOT, ROOT / "tests"))))
    fake = FakeEngine()
    with at_terminal() as screen:
        async with running(fake) as engine:
            await serve_beside(fake, engine.port, screen)


async def serve_beside(fake: FakeEngine, engine_port: int, screen: Screen) -> None:
    options = ServeOptions(port=0, engine_port=engine_port)
    fake_tokenizer = [sys.executable, "-m", "support.fakes.tokenizer_service"]
    commands = {"tokenizer service": [*fake_tokenizer, str(options.tokenizer.server.port)]}
    logs = LogLines(LogConfig())
    services = Supervisor(commands, options.address, logs)
    serving = asyncio.create_task(supervise(services, options, logs))
    await screen.until("running 0 · waiting 0 · 0 requests · 0 tokens · KV 0 %")
    fake.set_load(
        Load(num_running=3, num_admitted=1, num_generated_tokens=1532, kv_cache_usage=0.123)
    )
    await screen.until("running 3 · waiting 0 · 1 request · 1,532 tokens · KV 12 %")
    logs(FAILED_REQUEST)
    await screen.until("/Fork")
    await screen.until("running 3 · waiting 0 · 1 request · 1,532 tokens · KV 12 %")
    os.kill(os.getpid(), signal.SIGTERM)
    await serving


async def test_the_load_is_reported_while_requests_run_and_never_asked_for_in_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine_load, "_INTERVAL", 0.0)
    fixture = EngineFixture()
    await fixture.start()
    loads: list[Load] = []
    following = asyncio.create_task(follow_load(fixture.address, loads.append))
    fixture.runner.hold()
    request = asyncio.ensure_future(fixture.generate(ask("a", max_tokens=7)))
    while sum(load.num_requests for load in loads) < 3:
        await asyncio.sleep(0)
    fixture.runner.release()
    await request
    while (loads[-1].num_requests, loads[-1].num_generated_tokens) != (0, 7):
        await asyncio.sleep(0)
    before = len(loads)
    for _ in range(50):
        await fixture.stub.GetModelInfo(types_pb2.GetModelInfoRequest())
    # A change that the engine tells a tenth of a second later may have been on its way.
    assert len(loads) <= before + 2
    await fixture.stop()
    await asyncio.wait_for(following, 10)


def test_a_rate_is_over_a_time_in_which_requests_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 100.0, 100.1, 101.0, 103.0, 104.0])
    monkeypatch.setattr(status_line, "time", SimpleNamespace(monotonic=times.__next__))
    text = StatusText()
    rates = [
        text.of(Load(num_requests=busy, num_generated_tokens=tokens)).plain.split(" · ")[4]
        for busy, tokens in [(0, 0), (1, 100), (1, 120), (1, 200), (2, 1400), (0, 1500)]
    ]
    assert rates == ["KV 0 %", "KV 0 %", "KV 0 %", "100 tokens/s", "600 tokens/s", "KV 0 %"]
