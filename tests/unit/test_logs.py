import json
from collections.abc import Iterator

import pytest
import structlog

from folovllm.serving.logs import configure_logging


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
