"""The GPU benchmark as a developer runs it, in small and on the CPU."""

from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.results.results import Results


def test_a_smoke_run_measures_every_section(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "results.json"

    main(["gpu", "--smoke", "--json", str(path)])

    results = Results.load(path)
    assert [each.note for each in results.measurements if each.note] == []
    measured = {(each.case, each.engine) for each in results.measurements}
    assert {engine for case, engine in measured if case == "decode 2 x 24"} == {
        "folovllm",
        "transformers",
        "transformers-compiled",
        "torch",
    }
    ours = {case for case, engine in measured if engine == "folovllm"}
    assert {"ready after", "prefill 4 x 8", "6 requests", "first token of 40 beside 3 x 16"} <= ours
    assert any(case.startswith("decode 2 x 24: aten::") for case in ours)
    assert "of bound" in capsys.readouterr().out
