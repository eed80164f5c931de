"""Supervisor, `serve` and `demo` over stand-ins for the two services."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

import folovllm_client.cli.demo
import folovllm_client.cli.serve.run
from folovllm.serving.logs import LogConfig
from folovllm_client.cli.commands import commands
from folovllm_client.cli.serve.log_lines import LogLines
from folovllm_client.cli.serve.run import supervise
from folovllm_client.launch import child
from folovllm_client.launch.service_commands import ServeOptions, free_ports
from folovllm_client.launch.service_process import ServiceEndedError
from folovllm_client.launch.supervisor import (
    Supervisor,
    run_services,
    until_serving,
)
from support.fakes.tokenizer_service import running_fake

ROOT = Path(__file__).parent.parent.parent
FAKE = ("-m", "support.fakes.tokenizer_service")
NEVER_READY = ("-c", "import signal; signal.pause()")

ENGINE = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
print(f"engine: running in session {os.getsid(0)}", flush=True)
signal.sigwait({signal.SIGTERM})
print("engine: stopped", flush=True)
"""
STUBBORN_ENGINE = """
import signal
signal.signal(signal.SIGTERM, lambda *_: print("engine: not yet", flush=True))
print("engine: running", flush=True)
while True:
    signal.pause()
"""
FAILING_ENGINE = "import sys; print('error: no weights', file=sys.stderr); sys.exit(3)"


class Log:
    """Keeps the lines that the children print."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._new = asyncio.Event()

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        self._new.set()

    async def until(self, text: str) -> None:
        while not any(text in line for line in self.lines):
            self._new.clear()
            await asyncio.wait_for(self._new.wait(), 30)


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the stand-ins import what the tests import, installed or not."""
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join(map(str, (ROOT, ROOT / "client", ROOT / "tests")))
    )


def stand_ins(engine: str, tokenizer: Sequence[str], port: int) -> dict[str, list[str]]:
    return {
        "engine service": [sys.executable, "-c", engine],
        "tokenizer service": [sys.executable, *tokenizer, str(port)],
    }


def supervisor(
    engine: str, log: Log, cls: type[Supervisor] = Supervisor
) -> tuple[Supervisor, ServeOptions]:
    port, engine_port = free_ports(2)
    options = ServeOptions(port=port, engine_port=engine_port)
    return cls(stand_ins(engine, FAKE, port), options.address, log), options


async def test_services_run_until_the_body_ends_and_stop_in_order() -> None:
    log = Log()
    services, _ = supervisor(ENGINE, log)

    async def body() -> None:
        await services.ready()
        await log.until("engine: running")

    assert await run_services(services, body)
    assert log.lines[-2:] == ["fake: stopped", "engine: stopped"]
    [running] = (line for line in log.lines if line.startswith("engine: running"))
    session = running.rpartition(" ")[2]
    assert session != str(os.getsid(0)), "Ctrl-C in the terminal would reach the engine"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_both(number: signal.Signals) -> None:
    log = Log()
    services, _ = supervisor(ENGINE, log)

    async def body() -> None:
        await services.ready()
        await log.until("engine: running")
        os.kill(os.getpid(), number)
        await services.ended()

    assert not await run_services(services, body)
    assert log.lines[-2:] == ["fake: stopped", "engine: stopped"]


async def test_a_second_signal_kills() -> None:
    log = Log()
    services, _ = supervisor(STUBBORN_ENGINE, log)

    async def body() -> None:
        await log.until("engine: running")
        os.kill(os.getpid(), signal.SIGTERM)
        await services.ended()

    async def insist() -> None:
        await log.until("engine: not yet")
        os.kill(os.getpid(), signal.SIGTERM)

    insisting = asyncio.create_task(insist())
    assert not await asyncio.wait_for(run_services(services, body), 30)
    await insisting


async def test_the_end_of_one_service_ends_the_other() -> None:
    log = Log()
    services, _ = supervisor(FAILING_ENGINE, log)
    # Does not wait for ready: on a busy machine that may come before the end.
    with pytest.raises(ServiceEndedError, match="^the engine service ended: no weights$"):
        await run_services(services, services.ended)
    assert "error: no weights" in log.lines


async def test_a_killed_service_is_named_with_its_signal() -> None:
    log = Log()
    services, _ = supervisor("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", log)
    with pytest.raises(ServiceEndedError, match="the engine service ended: SIGKILL killed it"):
        await run_services(services, services.ended)


async def test_a_service_that_only_logs_its_failure_is_quoted_too() -> None:
    log = Log()
    entry = {
        "event": "the engine failed",
        "level": "error",
        "exception": "Trace\n  x\nValueError: y",
    }
    services, _ = supervisor(f"import sys; print({json.dumps(entry)!r}); sys.exit(1)", log)
    with pytest.raises(
        ServiceEndedError, match="^the engine service ended: the engine failed: ValueError: y$"
    ):
        await run_services(services, services.ended)


async def test_a_service_without_a_word_ends_with_its_exit_code() -> None:
    services, _ = supervisor("raise SystemExit(3)", Log())
    with pytest.raises(ServiceEndedError, match="^the engine service ended: exit code 3$"):
        await run_services(services, services.ended)


async def test_services_do_not_read_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOLOVLLM_PORT", "1")
    log = Log()
    program = "import os; print([name for name in os.environ if name.startswith('FOLOV')])"
    services, _ = supervisor(program, log)
    with pytest.raises(ServiceEndedError):
        await run_services(services, services.ended)
    assert "[]" in log.lines


async def test_lines_of_any_length_arrive_whole() -> None:
    log = Log()
    services, _ = supervisor("print('x' * 200_000); print('é', end='')", log)
    with pytest.raises(ServiceEndedError):
        await run_services(services, services.ended)
    assert "x" * 200_000 in log.lines and "é" in log.lines


async def test_waiting_for_a_service_survives_its_restart() -> None:
    [port] = free_ports(1)
    with running_fake(port) as fake:
        fake.set_serving(False)
        waiting = asyncio.create_task(until_serving(fake.address))
        await asyncio.to_thread(fake.watched.wait, 30)
    assert not waiting.done()
    with running_fake(port):
        await asyncio.wait_for(waiting, 30)


async def test_serve_says_where_it_listens(capsys: pytest.CaptureFixture[str]) -> None:
    class StoppedWhenReady(Supervisor):
        async def ready(self) -> None:
            await super().ready()
            # Runs when the caller waits for something else.
            asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGTERM)

    services, options = supervisor(ENGINE, Log(), StoppedWhenReady)
    await supervise(services, options, LogLines(LogConfig()))
    shown = capsys.readouterr().out
    assert options.address in shown and options.engine_address in shown
    assert f"generate --server {options.address}" in shown


def test_demo_shows_answers_and_their_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    _stand_in(monkeypatch, ENGINE)
    result = CliRunner().invoke(commands, ["demo"])
    assert result.exit_code == 0, result.output
    assert "Once upon a timeemit a nopu ecnO\n" in result.stdout
    assert 'get_weather {"city": "Oslo"} → {"city": "Oslo", "temperature": 21' in result.stdout
    figures = ("float32 on cpu", "first after", "tokens/s")
    for text in (*figures, "serve", "chat", "generate", "make test"):
        assert text in result.stdout
    assert result.stderr == ""


def test_demo_that_fails_shows_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    _stand_in(monkeypatch, FAILING_ENGINE, NEVER_READY)
    result = CliRunner().invoke(commands, ["demo"])
    assert result.exit_code == 1
    assert "error: no weights\n" in result.stderr
    assert "error: the engine service ended: no weights" in result.stderr


def test_demo_that_is_interrupted_exits_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(coroutine: Coroutine[None, None, bool]) -> bool:
        coroutine.close()
        return False

    monkeypatch.setattr(asyncio, "run", interrupted)
    assert CliRunner().invoke(commands, ["demo"]).exit_code == 130


def test_serve_ends_with_one_line_when_a_service_does(monkeypatch: pytest.MonkeyPatch) -> None:
    _stand_in(monkeypatch, FAILING_ENGINE, NEVER_READY)
    port, engine_port = free_ports(2)
    arguments = ["serve", "--port", str(port), "--engine-port", str(engine_port)]
    result = CliRunner().invoke(commands, arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: the engine service ended: no weights\n"


def _stand_in(
    monkeypatch: pytest.MonkeyPatch, engine: str, tokenizer: Sequence[str] = FAKE
) -> None:
    for module in (folovllm_client.cli.demo, folovllm_client.cli.serve.run):
        monkeypatch.setattr(
            module,
            "service_commands",
            lambda options: stand_ins(engine, tokenizer, options.tokenizer.server.port),
        )


def test_a_child_runs_its_module_and_ends_with_its_parent(tmp_path: Path) -> None:
    (tmp_path / "stand_in.py").write_text(
        "import signal, sys\n"
        "print(__name__, sys.argv[1:], flush=True)\n"
        "while True: signal.pause()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-P", str(child.__file__), str(tmp_path), "stand_in", "--port", "1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == b"__main__ ['--port', '1']\n"
        process.stdin.close()
        assert process.wait(30) == -signal.SIGTERM


def test_a_child_finds_the_code_of_its_parent_from_anywhere(tmp_path: Path) -> None:
    (tmp_path / "folovllm_client").mkdir()
    (tmp_path / "folovllm_client" / "__init__.py").write_text(
        "raise SystemExit('the wrong client')"
    )
    reading, held_open = os.pipe()
    result = subprocess.run(
        [
            sys.executable,
            "-P",
            str(child.__file__),
            str(ROOT / "client"),
            "folovllm_client",
            "--version",
        ],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        stdin=reading,
        capture_output=True,
        check=False,
        timeout=30,
    )
    os.close(reading)
    os.close(held_open)
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.startswith(b"folovllm ")
