import json

import pytest

from folovllm_client.launch.failure_reason import FailureReason


def entry(level: str, event: str, **fields: str) -> str:
    return json.dumps({"event": event, "level": level, **fields})


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([], None),
        (["loading"], None),
        (["error: no weights", "loading"], "no weights"),
        (["error: first", "error: second"], "second"),
        ([entry("info", "ready"), entry("warning", "slow")], None),
        ([entry("error", "worker ended")], "worker ended"),
        (
            [entry("error", "failed", exception="T:\n  File\nValueError: x")],
            "failed: ValueError: x",
        ),
        (
            ["Traceback (most recent call last):", "  File 1", "    x", "KeyError: 'y'"],
            "KeyError: 'y'",
        ),
        (["Traceback (most recent call last):", "  File 1", "", "E: 1", "more"], "E: 1"),
        (["{not json", "error: after"], "after"),
    ],
)
def test_the_last_line_that_says_why(lines: list[str], reason: str | None) -> None:
    found = FailureReason()
    for line in lines:
        found.read(line)
    assert found.text == reason
