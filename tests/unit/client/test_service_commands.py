"""How the services are started: command lines, ports, and what the command line shows meanwhile."""

import io
import socket
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from folovllm.errors import ConfigError
from folovllm.installation import parts
from folovllm.serving.ports import require_free_port
from folovllm_client.cli.commands import commands
from folovllm_client.cli.console import command_name, open_console, progress
from folovllm_client.cli.serve import ready_text
from folovllm_client.launch import service_commands
from folovllm_client.launch.service_commands import (
    ServeOptions,
    free_ports,
    require_services,
)


def arguments(options: ServeOptions) -> list[list[str]]:
    """What the engine service and the tokenizer service are started with, from their modules on."""
    commands = service_commands.service_commands(options)
    assert list(commands) == ["engine service", "tokenizer service"]
    for command in commands.values():
        assert command[:2] == [sys.executable, "-P"] and Path(command[2]).name == "child.py"
    return [command[4:] for command in commands.values()]


def test_settings_that_are_not_given_are_left_to_the_services() -> None:
    engine, tokenizer = arguments(ServeOptions())
    assert engine == ["engine_service", "--host", "127.0.0.1", "--port", "50052"]
    assert tokenizer == [
        *("tokenizer_service", "--host", "127.0.0.1", "--port", "50051"),
        *("--engine", "127.0.0.1:50052"),
    ]


def test_settings_reach_the_service_that_they_concern() -> None:
    options = ServeOptions(
        host="0.0.0.0",
        port=1,
        engine_port=2,
        model="m",
        device="cuda:1",
        dtype="bfloat16",
        max_model_len=3,
        quantization="int8",
        max_num_seqs=4,
        speculation="none",
        log_format="json",
    )
    engine, tokenizer = arguments(options)
    assert engine == [
        *("engine_service", "--host", "127.0.0.1", "--port", "2", "--model", "m"),
        *("--device", "cuda:1", "--dtype", "bfloat16"),
        *("--max-model-len", "3", "--quantization", "int8"),
        *("--max-num-seqs", "4", "--speculation", "none", "--log-format", "json"),
    ]
    assert tokenizer == [
        *("tokenizer_service", "--host", "0.0.0.0", "--port", "1"),
        *("--engine", "127.0.0.1:2", "--model", "m", "--log-format", "json"),
    ]


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1:50051"),
        ("0.0.0.0", "127.0.0.1:50051"),
        ("[::]", "[::1]:50051"),
        ("example.org", "example.org:50051"),
    ],
)
def test_where_the_tokenizer_service_is_reached(host: str, address: str) -> None:
    assert ServeOptions(host=host).address == address


def test_free_ports_differ_and_are_free() -> None:
    ports = free_ports(3)
    assert len(set(ports)) == 3
    for port in ports:
        require_free_port("127.0.0.1", port, "--port")


def test_a_port_in_use_ends_the_start_with_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = CliRunner().invoke(commands, ["serve", "--port", str(port)])
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: cannot listen on 127.0.0.1:{port}: ")
    assert "--port" in result.stderr and result.stderr.count("\n") == 1


def test_equal_ports_are_refused() -> None:
    result = CliRunner().invoke(commands, ["serve", "--port", "7", "--engine-port", "7"])
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)


def test_an_address_that_is_not_ours_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot listen on 192.0.2.1:"):
        require_free_port("192.0.2.1", free_ports(1)[0], "--port")


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    require_services()
    monkeypatch.setitem(parts.PARTS["all"], "torch", "no_such_module")
    with pytest.raises(ConfigError, match=r"needs torch; install with: pip install .*\[all\]"):
        require_services()


def test_the_default_server_needs_no_flag() -> None:
    text = ready_text(ServeOptions(), 1.25)
    assert "ready after 1.2 s" in text and "--server" not in text
    assert "--server 127.0.0.1:50051" in ready_text(ServeOptions(host="0.0.0.0"), 1.0)


def _program(folder: Path) -> Path:
    folder.mkdir(parents=True)
    program = folder / "folovllm"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return program


def test_a_command_is_shown_as_it_can_be_typed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = _program(tmp_path / "bin")
    other = _program(tmp_path / "other")
    monkeypatch.setattr(sys, "argv", [str(program)])
    monkeypatch.setenv("PATH", str(program.parent))
    assert command_name() == "folovllm"
    monkeypatch.setenv("PATH", str(other.parent))
    assert command_name() == str(program)
    monkeypatch.chdir(tmp_path)
    assert command_name() == str(Path("bin", "folovllm"))
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "folovllm_client" / "__main__.py")])
    assert command_name().endswith(" -m folovllm")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_shown_at_a_terminal_and_leaves_only_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress("loading [1]"):
        print("a log line", file=sys.stderr)
    shown = terminal.getvalue()
    assert "loading [1]" in shown and "0:00:00" in shown
    assert "\x1b[2Ka log line" in shown
    assert shown.rindex("\x1b[2K") > shown.rindex("loading")


def test_without_a_terminal_only_lines_are_written(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("loading"):
        open_console(err=True).print("[bold] :smile: 1")
        print("a log line", file=sys.stderr)
    assert capsys.readouterr().err == "[bold] :smile: 1\na log line\n"
