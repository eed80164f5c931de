import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from folovllm.serving.logs import configure_logging, forward_logging


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def test_given_fields_are_on_every_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("json", pid=7)
    structlog.get_logger("of this test").info("ready", port=1)
    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["port"], line["pid"]) == ("ready", 1, 7)


def test_a_package_that_logs_by_the_standard_library_writes_such_lines(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging("json")
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
