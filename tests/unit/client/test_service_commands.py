"""How the services are started: command lines, ports, and what the command line shows meanwhile."""

import io
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import engine_service.config
import folovllm_client.cli.serve.run
import tokenizer_service.config
from engine_service.config import EngineServiceConfig
from folovllm.errors import ConfigError
from folovllm.installation import parts
from folovllm.serving.args import Setting, settings
from folovllm.serving.ports import require_free_port
from folovllm.serving.variables import variable_names
from folovllm_client.cli.commands import commands
from folovllm_client.cli.console import command_name, open_console, progress
from folovllm_client.cli.serve.run import ready_text
from folovllm_client.launch import service_commands
from folovllm_client.launch.serve_flags import serve_flags
from folovllm_client.launch.service_commands import (
    ServeOptions,
    free_ports,
    require_services,
)
from tokenizer_service.config import TokenizerServiceConfig


def arguments(options: ServeOptions) -> list[list[str]]:
    """What the engine service and the tokenizer service are started with, from their modules on."""
    commands = service_commands.service_commands(options)
    assert list(commands) == ["engine service", "tokenizer service"]
    for command in commands.values():
        assert command[:2] == [sys.executable, "-P"] and Path(command[2]).name == "child.py"
    return [command[4:] for command in commands.values()]


def test_settings_that_are_not_given_are_left_to_the_services() -> None:
    engine, tokenizer = arguments(ServeOptions())
    assert engine == ["engine_service"]
    assert tokenizer == ["tokenizer_service"]


def test_settings_reach_the_service_that_they_concern() -> None:
    options = ServeOptions(
        host="0.0.0.0",
        port=1,
        engine_port=2,
        model="m",
        engine=("a:3",),
        max_num_seqs=4,
        log_level="debug",
        engine_log_level="error",
        grace_period=5.0,
    )
    engine, tokenizer = arguments(options)
    assert engine == [
        *("engine_service", "--model=m", "--max-num-seqs=4", "--port=2", "--log-level=error"),
    ]
    assert tokenizer == [
        *("tokenizer_service", "--model=m", "--engine=127.0.0.1:2", "--engine=a:3"),
        *("--host=0.0.0.0", "--port=1", "--grace-period=5.0", "--log-level=debug"),
    ]


def test_what_no_flag_is_named_cannot_be_set() -> None:
    with pytest.raises(TypeError, match="no max_seqs"):
        ServeOptions(max_seqs=1)


Config = TokenizerServiceConfig | EngineServiceConfig


def typed(setting: Setting) -> list[str]:
    """An option's flag with a value that is not its default."""
    kind, flag = setting.item.metadata.get("type"), setting.flags[0]
    if isinstance(setting.value, bool):
        return [flag]
    if isinstance(kind, click.Choice):
        return [flag, next(choice for choice in kind.choices if choice != setting.value)]
    if isinstance(kind, click.FloatRange):
        return [flag, str((kind.min or 0) + 0.25)]
    if isinstance(kind, click.IntRange):
        return [flag, "4321"]
    values = {"--engine": "there:4321", "--expect-fingerprint": "ab" * 32}
    return [flag, values.get(flag, "there")]


def value_of(setting: Setting, config: Config) -> object:
    return next(each.value for each in settings(config) if each.path == setting.path)


@pytest.mark.parametrize("from_environment", [False, True])
@pytest.mark.parametrize("index", [0, 1])
def test_every_flag_of_a_service_is_one_of_serve_and_reaches_it(
    index: int, from_environment: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs: list[Config] = [EngineServiceConfig(), TokenizerServiceConfig()]
    reads: list[Callable[[Sequence[str]], Config]]
    reads = [engine_service.config.parse_args, tokenizer_service.config.parse_args]
    read = reads[index]
    others = {setting.flags[0] for setting in settings(configs[1 - index])}
    started: list[ServeOptions] = []
    monkeypatch.setattr(folovllm_client.cli.serve.run, "serve", started.append)
    help_text = CliRunner().invoke(commands, ["serve", "--help"]).stdout
    for setting in settings(configs[index]):
        own, *value = typed(setting)
        flag = f"--engine-{own[2:]}" if index == 0 and own in others else own
        assert f" {flag} " in help_text or f" {flag}," in help_text
        runner, argv = CliRunner(), [flag, *value]
        if from_environment:
            runner, argv = CliRunner(env={variable_names([flag])[0]: (*value, "true")[0]}), []
        result = runner.invoke(commands, ["serve", *argv])
        assert (result.exit_code, result.output) == (0, "")
        expected = value_of(setting, read([own, *value]))
        if isinstance(expected, tuple):  # the engine that is started comes first
            expected = ("127.0.0.1:50052", *expected)
        found = value_of(setting, read(arguments(started.pop())[index][1:]))
        assert found == expected != setting.value


def test_no_two_flags_of_serve_share_a_name_or_a_variable() -> None:
    flags = [flag.option for flag in serve_flags()]
    names = [name for flag in flags for name in flag.opts]
    variables = [name for flag in flags for name in flag.variables]
    assert len({*names}) == len(names) and len({*variables}) == len(variables)


def test_the_help_of_serve_is_in_sections() -> None:
    shown = CliRunner().invoke(commands, ["serve", "--help"]).stdout
    titles = ("Both services:", "Tokenizer service:", "Engine service:")
    places = [shown.index(title) for title in titles]
    assert places == sorted(places)
    assert places[0] < shown.index("--log-level ") < places[1] < shown.index("--port ") < places[2]
    assert places[2] < shown.index("--engine-port ") and places[2] < shown.index("--dtype ")


def test_an_unprefixed_variable_means_the_tokenizer_service(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[ServeOptions] = []
    monkeypatch.setattr(folovllm_client.cli.serve.run, "serve", started.append)
    variables = {"FOLOVLLM_PORT": "7233", "FOLOVLLM_MODEL": "m", "FOLOVLLM_PROT": "1"}
    result = CliRunner(env=variables).invoke(commands, ["serve", "--engine-port", "0"])
    [options] = started
    assert options.address == "127.0.0.1:7233"
    assert options.engine.server.port not in (0, 7233)
    assert options.model == options.engine.engine.model.model == "m"
    warning = "warning: unknown variable FOLOVLLM_PROT; did you mean FOLOVLLM_PORT?\n"
    assert (result.stdout, result.stderr) == ("", warning)


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        (["--engine-prot", "1"], {}, "there is no option --engine-prot; did you mean"),
        (["--port", "99999"], {}, "--port must be between 0 and 65535, got 99999"),
        (
            ["--dtype", "fp4"],
            {},
            "--dtype must be one of auto, float32, bfloat16, float16, got 'fp4'",
        ),
        (
            [],
            {"FOLOVLLM_ENGINE_PORT": "x"},
            "--engine-port (FOLOVLLM_ENGINE_PORT) must be a whole number",
        ),
        ([], {"FOLOVLLM_DTYPE": "x"}, "--dtype (FOLOVLLM_DTYPE) must be one of"),
    ],
)
def test_a_bad_flag_of_serve_is_named_as_it_was_written(
    arguments: list[str], variables: dict[str, str], message: str
) -> None:
    result = CliRunner(env=variables).invoke(commands, ["serve", *arguments])
    assert result.exit_code == 2 and message in result.stderr
    if "--engine-prot" in arguments:
        assert "--engine-port" in result.stderr


def test_options_may_come_from_the_environment_without_a_command_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FOLOVLLM_DEVICE", "cpu")
    monkeypatch.setenv("FOLOVLLM_MODEL", "other")
    options = ServeOptions.from_environment(model="m")
    assert (options.engine.engine.model.device, options.model) == ("cpu", "m")


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1:50051"),
        ("0.0.0.0", "127.0.0.1:50051"),
        ("[::]", "[::1]:50051"),
        ("::1", "[::1]:50051"),
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
    with pytest.raises(ConfigError, match=r"needs torch; install with: .*pip install .*\[all\]"):
        require_services()


def test_the_default_server_needs_no_flag() -> None:
    text = ready_text(ServeOptions(host="0.0.0.0"), 1.25)
    assert "ready after 1.2 s" in text and "--server" not in text
    assert "--server 127.0.0.1:7" in ready_text(ServeOptions(port=7), 1.0)


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
