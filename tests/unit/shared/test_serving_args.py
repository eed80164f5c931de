"""Options of a service from its command line and its environment."""

from dataclasses import dataclass, field

import pytest

from folovllm.errors import ConfigError
from folovllm.serving.args import option, parse
from folovllm.serving.server import ServerConfig
from tokenizer_service.config import TokenizerServiceConfig, parse_args


@dataclass(frozen=True)
class Config:
    server: ServerConfig = field(default_factory=lambda: ServerConfig(port=7))
    items: tuple[str, ...] = option((), "Several.", "--item")
    limit: int | None = option(None, "A number.")
    share: float = option(0.5, "A share.", "--share", "--gpu-share")
    keep: bool = option(True, "Not to keep.", "--no-keep")


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOST", "PORT", "ENGINE", "WORKERS"):
        monkeypatch.delenv(f"FOLOVLLM_{name}", raising=False)


def read(*argv: str) -> Config:
    return parse(Config(), "service", "Serves.", argv)


def test_defaults() -> None:
    assert read() == Config()
    assert read().server.port == 7


def test_options_fill_the_fields() -> None:
    argv = ["--port=9", "--item", "a", "--item", "b,c", "--limit", "3", "--no-keep"]
    config = read(*argv, "--no-reflection", "--grace-period", "0.5")
    server = ServerConfig(port=9, grace_period=0.5, reflection=False)
    assert config == Config(server, ("a", "b,c"), 3, keep=False)


def test_the_environment_fills_what_the_command_line_leaves_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    variables = {
        "HOST": "0.0.0.0",
        "PORT": "8",
        "GRACE_PERIOD": "2.5",
        "NO_REFLECTION": "true",
        "NO_KEEP": "0",
        "ITEM": "a, b,",
        "LIMIT": "",
    }
    for name, value in variables.items():
        monkeypatch.setenv(f"FOLOVLLM_{name}", value)
    server = ServerConfig("0.0.0.0", 9, 2.5, reflection=False)
    assert read("--port=9") == Config(server, ("a", "b"))


def test_the_command_line_replaces_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOLOVLLM_ITEM", "a,b")
    assert read("--item", "c").items == ("c",)


def test_help_shows_options_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        read("--help")
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert "Serves." in shown and "[default: 7;" in shown
    assert "--grace-period SECONDS" in shown and "--no-keep " in shown


@pytest.mark.parametrize("value", ["", " ", "0", "false", "No"])
def test_a_switch_may_be_off(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOLOVLLM_NO_REFLECTION", value)
    assert read().server.reflection


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("PORT", "99999", "99999 is not in the range 0<=x<=65535"),
        ("PORT", "http", "'http' is not a valid integer"),
        ("GRACE_PERIOD", "nan", "nan is not in the range x>=0"),
        ("GRACE_PERIOD", "soon", "'soon' is not a valid float"),
        ("GRACE_PERIOD", "-1", "-1.0 is not in the range x>=0"),
        ("NO_REFLECTION", "maybe", "'maybe' is not a valid boolean"),
        ("LIMIT", "x", "'x' is not a valid integer"),
        ("SHARE", "x", "'x' is not a valid float"),
        ("GPU_SHARE", "x", "'x' is not a valid float"),
    ],
)
@pytest.mark.parametrize("source", ["command line", "environment"])
def test_a_bad_value_ends_the_start(
    source: str,
    name: str,
    value: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flag = f"--{name.replace('_', '-').lower()}"
    hint = "'--share' / '--gpu-share'" if "SHARE" in name else f"'{flag}'"
    argv = [f"{flag}={value}"]
    if source == "environment":
        monkeypatch.setenv(f"FOLOVLLM_{name}", value)
        hint, argv = f"{hint} (FOLOVLLM_{name})", []
    elif name == "NO_REFLECTION":
        message, hint = "does not take a value", flag
    with pytest.raises(SystemExit) as caught:
        read(*argv)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert message in error and hint in error


def test_an_unknown_option_ends_the_start(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_args(["--no-such-thing"])
    assert caught.value.code == 2
    assert "--no-such-thing" in capsys.readouterr().err


def test_the_tokenizer_services_command_line() -> None:
    argv = [
        "--model",
        "m",
        "--engine",
        "a:1",
        "--engine",
        "[::1]:2",
        "--max-prompt-bytes",
        "9",
        "--grace-period",
        "1",
    ]
    assert parse_args(argv) == TokenizerServiceConfig(
        model="m",
        engines=("a:1", "[::1]:2"),
        max_prompt_bytes=9,
        server=ServerConfig(port=50051, grace_period=1.0),
    )


def test_the_tokenizer_services_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_args([]) == TokenizerServiceConfig()
    monkeypatch.setenv("FOLOVLLM_ENGINE", "a:1,b:2")
    monkeypatch.setenv("FOLOVLLM_WORKERS", "4")
    assert parse_args([]).engines == ("a:1", "b:2")
    assert parse_args([]).workers == 4


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--engine", "here"], "--engine must be HOST:PORT, got 'here'"),
        (["--engine", "a:b"], "--engine must be HOST:PORT, got 'a:b'"),
        (["--max-prompt-bytes", "0"], "--max-prompt-bytes must be at least 1, got 0"),
        (["--workers", "0"], "--workers must be at least 1, got 0"),
    ],
)
def test_a_bad_configuration_is_one_clear_line(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_args(argv)


def test_no_engine_is_no_configuration() -> None:
    with pytest.raises(ConfigError, match="at least one engine"):
        TokenizerServiceConfig(engines=())
