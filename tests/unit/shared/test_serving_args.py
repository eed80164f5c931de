"""Options of a service from its command line and its environment."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

import engine_service.config
from engine_service.config import EngineServiceConfig, SchedulerConfig
from folovllm.errors import ConfigError
from folovllm.serving.args import arguments, option, parse, settings, warn_of_unknown_variables
from folovllm.serving.server import ServerConfig
from folovllm.serving.variables import unknown_variables, variable_names
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
    for name in [name for name in os.environ if name.startswith("FOLOVLLM_")]:
        monkeypatch.delenv(name)


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


@pytest.mark.parametrize("address", ["here", "here:99999", "http://here:50052"])
def test_a_bad_address_is_one_line_with_what_to_type(address: str) -> None:
    with pytest.raises(ConfigError, match="^--engine must be HOST:PORT; .* type here:50052$"):
        parse_args(["--engine", address])


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--workers=0", "error: Invalid value for '--workers': 0 is not in the range x>=1.\n"),
        (
            "--log-level=all",
            "error: Invalid value for '--log-level': 'all' is not one of "
            "'debug', 'info', 'warning', 'error'.\n",
        ),
    ],
)
def test_a_bad_value_is_one_line_that_says_what_may_be(
    flag: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse_args([flag])
    assert capsys.readouterr().err == message


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TokenizerServiceConfig(workers=0), "workers must be at least 1, got 0"),
        (lambda: ServerConfig(port=-1), r"port must be in \[0, 65535\], got -1"),
        (lambda: SchedulerConfig(speculation="all"), "speculation must be one of .*, got 'all'"),
    ],
)
def test_a_configuration_made_in_python_has_the_limits_of_its_flags(
    make: Callable[[], object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_no_engine_is_no_configuration() -> None:
    with pytest.raises(ConfigError, match="at least one engine"):
        TokenizerServiceConfig(engines=())


def test_a_process_is_told_what_differs_from_its_defaults() -> None:
    config = Config(ServerConfig(port=9, reflection=False), ("a", "b"), 3, keep=False)
    argv = [*arguments(config, Config())]
    assert argv == [
        *("--port=9", "--no-reflection", "--item=a", "--item=b", "--limit=3", "--no-keep"),
    ]
    assert read(*argv) == config
    assert [*arguments(Config(), Config())] == []


def test_the_engines_variables_have_its_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {
        "PORT": "1",
        "MODEL": "shared",
        "LOG_LEVEL": "debug",
        "DTYPE": "float16",
        "MAX_NUM_SEQS": "7",
        "ENGINE_PORT": "2",
        "ENGINE_LOG_LEVEL": "error",
        "ENGINE_DTYPE": "bfloat16",
    }
    for name, value in variables.items():
        monkeypatch.setenv(f"FOLOVLLM_{name}", value)
    config = engine_service.config.parse_args([])
    assert (config.server.port, config.logs.log_level) == (2, "error")
    assert (config.engine.model.model, config.engine.model.dtype) == ("shared", "bfloat16")
    assert config.engine.scheduler.max_num_seqs == 7
    tokenizer = parse_args([])
    assert (tokenizer.server.port, tokenizer.logs.log_level) == (1, "debug")


def test_the_engines_error_names_the_variable_that_was_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FOLOVLLM_ENGINE_PORT", "x")
    with pytest.raises(SystemExit):
        engine_service.config.parse_args([])
    assert "'--port' (FOLOVLLM_ENGINE_PORT): 'x' is not a valid" in capsys.readouterr().err


def warnings(service: str, **variables: str) -> list[str]:
    """What a service by itself says of an environment."""
    found: list[str] = []
    config: TokenizerServiceConfig | EngineServiceConfig
    config = EngineServiceConfig() if service else TokenizerServiceConfig()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        warn_of_unknown_variables(config, service, found.append)
    return found


def test_a_misspelled_variable_is_warned_of() -> None:
    assert warnings("", FOLOVLLM_PROT="1", FOLOVLLM_PORT="1", OTHER_PROT="1") == [
        "unknown variable FOLOVLLM_PROT; did you mean FOLOVLLM_PORT?"
    ]
    assert warnings("engine", FOLOVLLM_ENGINE_PROT="1", FOLOVLLM_DTYP="1") == [
        "unknown variable FOLOVLLM_DTYP; did you mean FOLOVLLM_DTYPE?",
        "unknown variable FOLOVLLM_ENGINE_PROT; did you mean FOLOVLLM_ENGINE_PORT?",
    ]
    assert len(warnings("engine", FOLOVLLM_ENGINE_XYZ="1")) == 1


def test_a_service_says_nothing_of_what_may_belong_to_others() -> None:
    tokenizer, engine = TokenizerServiceConfig(), EngineServiceConfig()
    theirs = {name: "1" for row in settings(tokenizer) for name in variable_names(row.flags)}
    assert warnings("engine", **theirs, FOLOVLLM_SERVER="a:1", FOLOVLLM_SERVICE_HOST="a") == []
    theirs = {name: "1" for row in settings(engine) for name in variable_names(row.flags, "engine")}
    assert warnings("", **theirs, FOLOVLLM_SERVICE_HOST="a") == []


def test_whoever_knows_all_flags_warns_of_every_other_variable() -> None:
    environ = {"FOLOVLLM_XYZ": "1", "FOLOVLLM_SERVER": "a:1", "FOLOVLLM_PORT": "1", "PATH": ""}
    [line] = unknown_variables(["FOLOVLLM_PORT"], environ=environ)
    assert line.startswith("unknown variable FOLOVLLM_XYZ;")
