"""The `folovllm` command line, against a TokenizerService on a real socket."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result

from folovllm.outputs import CompletionOutput, FinishReason
from folovllm.v1 import types_pb2
from folovllm.version import __version__
from folovllm_client.cli.commands import commands
from folovllm_client.cli.stream_stats import StreamStats
from support.fakes.tokenizer_service import FakeTokenizerService, running_fake
from support.processes.terminal import Terminal

ROOT = Path(__file__).parents[3]


class Running:
    """A fake service and the command line that calls it."""

    def __init__(self, fake: FakeTokenizerService) -> None:
        self.fake = fake

    def __call__(self, *arguments: str, stdin: str | None = None) -> Result:
        runner = CliRunner(env={"FOLOVLLM_SERVER": self.fake.address})
        return runner.invoke(commands, arguments, input=stdin)


@pytest.fixture
def folovllm() -> Iterator[Running]:
    with running_fake() as fake:
        yield Running(fake)


def test_generate_prints_the_text_and_nothing_else(folovllm: Running) -> None:
    result = folovllm("generate", "abc")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "cba\n", "")


def test_only_given_parameters_are_sent(folovllm: Running) -> None:
    folovllm("generate", "a")
    folovllm("generate", "a", "--temperature", "0", "--stop", "x", "--stop", "y", "--ignore-eos")
    folovllm("generate", "a", "--bad-words", "x", "--bad-words", "y")
    unset, given, bad = (request.sampling_params for request in folovllm.fake.requests)
    assert bad == types_pb2.SamplingParams(bad_words=["x", "y"])
    assert unset == types_pb2.SamplingParams()
    assert given == types_pb2.SamplingParams(temperature=0, stop=["x", "y"], ignore_eos=True)
    assert given.HasField("temperature") and not given.HasField("top_p")


def test_every_parameter_arrives(folovllm: Running) -> None:
    numbers = {
        "max_tokens": 9,
        "min_tokens": 2,
        "temperature": 0.5,
        "top_k": 5,
        "top_p": 0.25,
        "min_p": 0.125,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "repetition_penalty": 1.25,
        "seed": 2**64 - 1,
        "logprobs": 0,
        "prompt_logprobs": 2,
        "n": 1,
    }
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in numbers.items()]
    assert folovllm("generate", "a", *flags).exit_code == 0
    sent = folovllm.fake.requests[0].sampling_params
    assert {field.name: value for field, value in sent.ListFields()} == numbers


def test_several_answers_come_one_after_the_other(folovllm: Running) -> None:
    assert folovllm("generate", "ab", "--n", "2").stdout == "[1/2]\nba\n[2/2]\nba\n"


def test_generate_as_json(folovllm: Running) -> None:
    result = folovllm("generate", "é\n", "--json")
    answer = json.loads(result.stdout)
    assert result.stdout.count("\n") == 1
    assert (answer["prompt"], answer["prompt_token_ids"]) == ("é\n", [233, 10])
    assert answer["outputs"][0]["text"] == "\né"
    assert answer["outputs"][0]["finish_reason"] == "length"
    assert answer["outputs"][0]["usage"]["completion_tokens"] == 2


def test_a_dash_reads_standard_input(folovllm: Running) -> None:
    assert folovllm("generate", "-", stdin="ab\nc\n").stdout == "c\nba\n"
    assert folovllm("tokenize", "-", stdin="ab\n").stdout == "2 97 98\n"


def test_stats_go_to_standard_error(folovllm: Running) -> None:
    result = folovllm("generate", "abc", "--stats")
    assert result.stdout == "cba\n"
    assert result.stderr.startswith("3 tokens · first after ")
    assert result.stderr.endswith(" · length\n")


def test_ids_and_text(folovllm: Running) -> None:
    assert folovllm("tokenize", "hé").stdout == "2 104 233\n"
    assert folovllm("detokenize", "104", "233").stdout == "hé\n"


def test_info_is_an_aligned_table(folovllm: Running) -> None:
    lines = folovllm("info").stdout.splitlines()
    rows = dict(line.split(maxsplit=1) for line in lines)
    assert rows["model_id"] == "fake"
    assert rows["eos_token_ids"] == "0 3"
    assert rows["chat_template_fingerprint"] == "-"
    assert len({line.index(rows[name]) for line in lines for name in [line.split()[0]]}) == 1


def test_health_has_an_exit_code(folovllm: Running) -> None:
    result = folovllm("health")
    assert result.exit_code == 0
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["server", "SERVING"],
        ["folovllm.v1.TokenizerService", "SERVING"],
    ]
    folovllm.fake.set_serving(False)
    result = folovllm("health")
    assert (result.exit_code, result.stdout.count("NOT_SERVING")) == (1, 1)


def test_an_error_is_one_line(folovllm: Running) -> None:
    result = folovllm("generate", "!INVALID_ARGUMENT")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: top_p is wrong\n"


def test_an_error_after_text_begins_on_its_own_line(folovllm: Running) -> None:
    result = folovllm("generate", "!!UNAVAILABLE")
    assert (result.exit_code, result.stdout) == (1, "a\n")
    assert result.stderr == "error: no engine is ready\n"


def test_a_deadline_says_what_happened(folovllm: Running) -> None:
    result = folovllm("generate", "forever", "--timeout", "2")
    assert (result.exit_code, result.stdout) == (1, "a\n")
    assert "no complete answer within" in result.stderr


def test_a_number_that_cannot_be_sent_names_its_parameter(folovllm: Running) -> None:
    result = folovllm("generate", "a", "--max-tokens", "-1")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: sampling_params.max_tokens cannot be sent: ")
    assert not folovllm.fake.requests


@pytest.mark.parametrize(
    "arguments", [("generate", "a"), ("tokenize", "a"), ("info",), ("health",)]
)
def test_a_server_that_is_not_there(arguments: tuple[str, ...]) -> None:
    with running_fake() as fake:
        address = fake.address
    result = CliRunner().invoke(commands, [*arguments, "--server", address])
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: nothing answers at {address}")
    assert "serve`" in result.stderr and result.stderr.count("\n") == 1


def test_version() -> None:
    assert CliRunner().invoke(commands, ["--version"]).output == f"folovllm {__version__}\n"


def test_ctrl_c_ends_quietly(folovllm: Running) -> None:
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "folovllm_client",
            "generate",
            "forever",
            "--server",
            folovllm.fake.address,
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.read(1) == b"a"
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, stdout, stderr) == (130, b"\n", b"")
    assert folovllm.fake.cancelled.wait(10)


def stream_stats(monkeypatch: pytest.MonkeyPatch, *times: float) -> StreamStats:
    clock = SimpleNamespace(monotonic=iter(times).__next__)
    monkeypatch.setattr("folovllm_client.cli.stream_stats.time", clock)
    return StreamStats()


def test_stream_stats_count_from_the_first_token(monkeypatch: pytest.MonkeyPatch) -> None:
    stats = stream_stats(monkeypatch, 10.0, 10.5, 11.0, 12.5)
    stats.observe(CompletionOutput())
    assert stats.summary() == "0 tokens"
    stats.observe(CompletionOutput(token_ids=[1, 2]))
    assert stats.summary() == "2 tokens · first after 500 ms"
    stats.observe(CompletionOutput(token_ids=[3]))
    stats.observe(CompletionOutput(token_ids=[4, 5, 6], finish_reason=FinishReason.STOP))
    assert stats.summary() == "6 tokens · first after 500 ms · 2.0 tokens/s · stop"


def test_stream_stats_of_one_token_have_no_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    stats = stream_stats(monkeypatch, 0.0, 0.25)
    stats.observe(CompletionOutput(token_ids=[1], finish_reason=FinishReason.LENGTH))
    assert stats.summary() == "1 token · first after 250 ms · length"


def test_structured_output_arrives(folovllm: Running, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "integer"}')
    folovllm("generate", "a", "--json-schema", str(schema))
    folovllm("generate", "a", "--regex", "[ab]")
    by_schema, by_regex = (request.sampling_params for request in folovllm.fake.requests)
    assert by_schema == types_pb2.SamplingParams(json_schema='{"type": "integer"}')
    assert by_regex == types_pb2.SamplingParams(regex="[ab]")


def test_a_text_cannot_control_the_terminal(folovllm: Running) -> None:
    environment = {"FOLOVLLM_SERVER": folovllm.fake.address}
    with closing(Terminal(["generate", "]2[\x1b!"], environment)) as terminal:
        assert terminal.until("[2]") == "!\ufffd[2]"
        assert terminal.exit_code() == 0
    assert "\x1b[2]" not in terminal.raw
