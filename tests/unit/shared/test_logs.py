import json
import logging
import sys
from collections.abc import Iterator

import pytest
import structlog

from folovllm.serving.logs import LogConfig, LogFormat, configure_logging, forward_logging


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def test_given_fields_are_on_every_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogConfig("json"), pid=7)
    structlog.get_logger("of this test").info("ready", port=1)
    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["port"], line["pid"]) == ("ready", 1, 7)


def test_a_package_that_logs_by_the_standard_library_writes_such_lines(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging(LogConfig("json"))
    forward_logging("a_package")
    log = logging.getLogger("a_package.a_module")
    log.debug("unheard")
    log.info("compiling %s", "kernels")
    try:
        raise ValueError("broken")
    except ValueError:
        log.exception("failed")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["event"], line["level"]) for line in lines] == [
        ("compiling kernels", "info"),
        ("failed", "error"),
    ]
    assert "exception" not in lines[0] and "ValueError: broken" in lines[1]["exception"]


@pytest.mark.parametrize(
    ("log_format", "terminal", "as_json"),
    [("auto", True, False), ("auto", False, True), ("text", False, False), ("json", True, True)],
)
def test_lines_are_json_where_nobody_reads_them_unless_a_format_is_given(
    log_format: LogFormat, terminal: bool, as_json: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    assert LogConfig(log_format).as_json is as_json


def test_only_lines_of_the_level_and_above_are_written(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogConfig("json", "warning"))
    log = structlog.get_logger("of this test")
    for level in ("debug", "info", "warning", "error"):
        getattr(log, level)(level)
    assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == [
        "warning",
        "error",
    ]


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_line_is_short_whatever_is_in_it(
    log_format: LogFormat, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(LogConfig(log_format))
    log = structlog.get_logger("of this test")
    log.info("e" * 5000, name="n" * 3_000_000, names=["n" * 9] * 200_000, count=7)
    try:
        raise ValueError("begin" + "q" * 3_000_000 + "the end")
    except ValueError:
        log.exception("failed")
    output = capsys.readouterr().err
    assert len(output) < 22_000
    assert "count" in output and "begin" in output and "the end" in output
    assert "2998976 characters" in output  # of the name
