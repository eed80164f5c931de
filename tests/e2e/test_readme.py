"""README's snippets run in the order of the page."""

import sys
from pathlib import Path

import pytest

from support.processes.service_processes import ServiceProcess
from tools.release.readme_page import Shell, run_page

ROOT = Path(__file__).parents[2]
BUF = Path(sys.executable).parent / "buf"


def test_every_snippet_runs_in_the_order_of_the_page(
    tokenizer: ServiceProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    printed = run_page(ROOT, tokenizer.address, BUF)
    assert all(printed) and "Anna" in printed[-1]
    assert (tmp_path / "folder" / "tokenizer.json").is_file()


@pytest.mark.parametrize(
    "line",
    [
        "make no-such-target",
        "pip install 'folovllm[no_such_extra]'",
        "folovllm serve --no-such-flag",
        "python -m engine_service --no-such-flag",
        "docker compose -f no-such-file.yml up",
        "no-such-program",
    ],
)
def test_what_there_is_not_fails(line: str, tokenizer: ServiceProcess) -> None:
    with pytest.raises((Exception, SystemExit)):
        Shell(ROOT, tokenizer.address, BUF).run(line)
