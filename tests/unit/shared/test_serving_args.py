import argparse

import pytest

from folovllm.errors import ConfigError
from folovllm.serving.args import add_server_arguments, parse_with_environment, server_config
from folovllm.serving.server import ServerConfig
from tokenizer_service.config import TokenizerServiceConfig, parse_args


def parse(argv: list[str], environ: dict[str, str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="service")
    add_server_arguments(parser, default_port=7)
    parser.add_argument("--item", action="append")
    return parse_with_environment(parser, argv, environ)


def test_defaults() -> None:
    namespace = parse([], {})
    assert server_config(namespace) == ServerConfig(port=7)
    assert (namespace.log_format, namespace.item) == ("text", None)


def test_the_environment_fills_what_the_command_line_leaves_out() -> None:
    environ = {
        "FOLOVLLM_HOST": "0.0.0.0",
        "FOLOVLLM_PORT": "8",
        "FOLOVLLM_GRACE_PERIOD": "2.5",
        "FOLOVLLM_NO_REFLECTION": "true",
        "FOLOVLLM_LOG_FORMAT": "json",
        "FOLOVLLM_ITEM": "a, b,",
    }
    namespace = parse(["--port=9"], environ)
    assert server_config(namespace) == ServerConfig("0.0.0.0", 9, 2.5, reflection=False)
    assert (namespace.log_format, namespace.item) == ("json", ["a", "b"])


def test_the_command_line_replaces_a_list() -> None:
    assert parse(["--item", "c"], {"FOLOVLLM_ITEM": "a,b"}).item == ["c"]


@pytest.mark.parametrize("value", ["", " ", "0", "false", "No"])
def test_a_switch_may_be_off(value: str) -> None:
    assert server_config(parse([], {"FOLOVLLM_NO_REFLECTION": value})).reflection


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("FOLOVLLM_PORT", "99999", "must be between 0 and 65535"),
        ("FOLOVLLM_PORT", "http", "must be between 0 and 65535, got http"),
        ("FOLOVLLM_GRACE_PERIOD", "nan", "must be a number of at least 0"),
        ("FOLOVLLM_GRACE_PERIOD", "soon", "must be a number of at least 0, got soon"),
        ("FOLOVLLM_GRACE_PERIOD", "-1", "must be a number of at least 0"),
        ("FOLOVLLM_NO_REFLECTION", "maybe", "must be one of 1, true, yes, 0, false, no"),
        ("FOLOVLLM_LOG_FORMAT", "xml", "invalid choice: 'xml'"),
    ],
)
def test_a_bad_value_ends_the_start(
    name: str, value: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse([], {name: value})
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


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
    assert parse_args(argv, {}) == TokenizerServiceConfig(
        model="m",
        engines=("a:1", "[::1]:2"),
        max_prompt_bytes=9,
        server=ServerConfig(port=50051, grace_period=1.0),
    )


def test_the_tokenizer_services_defaults() -> None:
    assert parse_args([], {}) == TokenizerServiceConfig()
    assert parse_args([], {"FOLOVLLM_ENGINE": "a:1,b:2"}).engines == ("a:1", "b:2")
    assert parse_args([], {"FOLOVLLM_WORKERS": "4"}).workers == 4


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
        parse_args(argv, {})


def test_no_engine_is_no_configuration() -> None:
    with pytest.raises(ConfigError, match="at least one engine"):
        TokenizerServiceConfig(engines=())
