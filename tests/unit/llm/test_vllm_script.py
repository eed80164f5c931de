"""What was written for vLLM runs with our names: a script, and the page's own snippets."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "tools" / "release" / "vllm_script.py"
SNIPPETS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "vllm.md").read_text(), re.DOTALL)


def test_a_script_for_vllm_runs(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(SCRIPT), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("Once upon a time 4 True")
    assert [line.split()[-2:] for line in lines[1:3]] == [["stop", "."]] * 2
    assert "' Paris.' stop None" in lines[4]
    assert lines[-1].startswith(", there was a")


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_the_pages_snippets_run(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(SNIPPETS[number], f"snippet {number}", "exec"), {"__name__": "snippet"})
    assert len(capsys.readouterr().out.splitlines()) > 2
