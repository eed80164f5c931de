"""The GPU benchmark as a developer runs it, in small and on the CPU."""

import json
from pathlib import Path

import pytest

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu.sections import SECTIONS


def test_a_smoke_run_measures_every_section(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results.json"

    # The kernels have tests of their own, and Triton's interpreter is slow.
    sections = [name for name in SECTIONS if name != "kernels"]

    gpu.main(["--smoke", "--json", str(results), "--only", *sections])

    lines = json.loads(results.read_text())["lines"]
    assert {line["section"] for line in lines} == set(sections)
    assert [line["error"] for line in lines if line["error"]] == []
    assert all(line["seconds"] > 0 for line in lines)
    printed = capsys.readouterr().out
    assert "first-token" in printed and "of copy" in printed
