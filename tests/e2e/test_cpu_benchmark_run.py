"""The CPU benchmark as a developer runs it, in small."""

import json
from pathlib import Path

import pytest

from benchmarks.cpu import command as cpu


@pytest.mark.slow
def test_a_quick_run_measures_every_case(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results.json"

    options = ["--formats", "bf16", "int8", "--peers", "transformers", "--json", str(results)]
    cpu.main(["--quick", "--threads", "1", *options])

    run = json.loads(results.read_text())
    measured = {(each["case"], each["engine"]) for each in run["measurements"]}
    assert set(run["versions"]) == {"folovllm", "folovllm:int8", "transformers", "services"}
    for case in ("prefill 32", "decode 4 x 16", "ready after"):
        assert {(case, "folovllm"), (case, "folovllm:int8"), (case, "transformers")} <= measured
    for case in (
        "throughput 4 x 8",
        "decode 2 x 128",
        "50 requests/s",
        "50 requests/s, first token p50",
    ):
        assert {(case, "folovllm"), (case, "services")} <= measured
    # Tokens that came in one message have no time between them.
    timed = [each for each in run["measurements"] if "inter-token" not in each["case"]]
    assert all(value > 0 for each in timed for value in each["values"])
    assert "decode 4 x 16" in capsys.readouterr().out
