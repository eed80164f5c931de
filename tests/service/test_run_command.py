"""`folovllm run` over stand-ins for the two services."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import folovllm_client.cli.run
from folovllm.model_files import DEMO_MODEL
from folovllm_client.cli.commands import commands
from folovllm_client.launch.background import BackgroundServices
from folovllm_client.launch.service_commands import ServeOptions
from support.fakes.hub import running_hub

ROOT = Path(__file__).parents[2]
FAKE = ("-m", "support.fakes.tokenizer_service")
ENGINE = "import signal; signal.pause()"
NEVER_READY = ("-c", ENGINE)
FAILING = "print('loading', flush=True); raise SystemExit('error: no weights')"

FAKE_THAT_DIES = """
import os, sys
from support.fakes import tokenizer_service as fakes
class Dying(fakes.FakeTokenizerService):
    def Chat(self, request, context):
        if request.messages[-1].content == "die":
            print("about to die", flush=True)
            os._exit(3)
        yield from super().Chat(request, context)
fakes.FakeTokenizerService = Dying
with fakes.running_fake(int(sys.argv[1])):
    sys.stdin.read()
"""


class Running:
    """The command, with stand-ins; `options` are the latest that services were started with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.engine = ENGINE
        self.tokenizer: Sequence[str] = FAKE
        self.options: ServeOptions | None = None
        paths = map(str, (ROOT, ROOT / "client", ROOT / "tests"))
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
        monkeypatch.setattr(folovllm_client.cli.run, "service_commands", self.commands)

    def commands(self, options: ServeOptions) -> dict[str, list[str]]:
        self.options = options
        port = options.address.rpartition(":")[2]
        return {
            "engine service": [sys.executable, "-c", self.engine],
            "tokenizer service": [sys.executable, *self.tokenizer, port],
        }

    def __call__(self, *arguments: str, stdin: str = "") -> Result:
        return CliRunner().invoke(commands, ["run", *arguments], input=stdin)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Running:
    return Running(monkeypatch)


def test_a_question_is_answered_and_both_services_end(
    run: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[BackgroundServices] = []

    class Recorded(BackgroundServices):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)  # type: ignore[arg-type]
            made.append(self)

    monkeypatch.setattr(folovllm_client.cli.run, "BackgroundServices", Recorded)
    result = run(str(DEMO_MODEL), "abc", "--device", "cpu", "--stats")
    assert (result.exit_code, result.stdout) == (0, "cba\n")
    assert result.stderr == "4 tokens · first after 250 ms · stop\n"
    assert run.options is not None and run.options.model == str(DEMO_MODEL)
    [services] = made
    assert [*services.log] == ["fake: serving", "fake: stopped"]


def test_lines_are_a_chat_until_a_service_ends(run: Running) -> None:
    run.tokenizer = ("-c", FAKE_THAT_DIES)
    result = run(stdin="ab\ndie\ncd\n")
    assert (result.exit_code, result.stdout) == (1, "ba\n")
    assert "about to die" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: the tokenizer service ended")


def test_a_start_that_fails_ends_with_the_reason_after_the_log(run: Running) -> None:
    run.engine, run.tokenizer = FAILING, NEVER_READY
    result = run()
    assert (result.exit_code, result.stdout) == (1, "")
    lines = result.stderr.splitlines()
    assert lines[:2] == ["loading", "error: no weights"]
    assert lines[-1].startswith("error: the engine service ended")


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config.json", "has no config.json; a model's folder holds config.json, tokenizer.json"),
        ("tokenizer.json", "has no tokenizer.json; a model's folder holds config.json, tokeni"),
        ("model.safetensors", "has no weights: it needs model.safetensors or model.safetensors."),
    ],
)
def test_a_folder_that_lacks_a_file_is_not_served(
    run: Running, tmp_path: Path, missing: str, message: str
) -> None:
    for name in {"config.json", "tokenizer.json", "model.safetensors"} - {missing}:
        (tmp_path / name).write_text("{}")
    result = run(str(tmp_path))
    assert result.stderr.startswith(f"error: {tmp_path} {message}")
    assert (result.exit_code, run.options) == (1, None)


def test_a_model_of_the_hub_is_fetched_once(run: Running, tmp_path: Path) -> None:
    with running_hub(tmp_path) as hub:
        hub.files["org/tiny"] = {
            "config.json": json.dumps({}).encode(),
            "tokenizer.json": b"{}",
            "model.safetensors": b"weights",
        }
        for _ in range(2):
            result = run("org/tiny", "ab", "--max-tokens", "0")
            assert result.stderr == "error: --max-tokens must be at least 1, got 0\n"
        assert hub.downloads == []
        result = run("org/tiny", "ab")
        assert result.stdout == "ba\n"
        assert "org/tiny: 11 bytes in 3 files\n" in result.stderr
        assert run.options is not None and run.options.model == "org/tiny"
        hub.downloads.clear()
        folovllm_client.cli.run._prepare("org/tiny")
        assert hub.downloads == []
