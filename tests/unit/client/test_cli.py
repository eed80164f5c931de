"""The `folovllm` command line, against a TokenizerService on a real socket."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner, Result
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from folovllm.outputs import CompletionOutput, FinishReason, RequestMetrics
from folovllm.serving.healthcheck import ENGINE_SERVICE, TOKENIZER_SERVICE
from folovllm.v1 import engine_service_pb2_grpc, types_pb2
from folovllm.version import __version__
from folovllm_client.cli.commands import commands
from folovllm_client.cli.console import command_name
from folovllm_client.cli.stream_stats import StreamStats
from support.fakes.tokenizer_service import FakeTokenizerService, as_asked, running_fake
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


def unbounded(**given: Any) -> types_pb2.SamplingParams:
    """What is sent without --max-tokens: where a bound is not set, the server has its own."""
    return types_pb2.SamplingParams(max_tokens=2**32 - 1, **given)


def test_only_given_parameters_are_sent(folovllm: Running) -> None:
    folovllm("generate", "a")
    folovllm("generate", "a", "--temperature", "0", "--stop", "x", "--stop", "y", "--ignore-eos")
    folovllm("generate", "a", "--bad-words", "x", "--bad-words", "y")
    unset, given, bad = (as_asked(each).sampling_params for each in folovllm.fake.requests)
    assert bad == unbounded(bad_words=["x", "y"])
    assert unset == unbounded()
    assert given == unbounded(temperature=0, stop=["x", "y"], ignore_eos=True)
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


def test_log_probabilities_are_a_table(folovllm: Running) -> None:
    lines = folovllm("generate", "b\x03a", "--logprobs", "2", "--prompt-logprobs", "0").stdout
    assert lines.splitlines() == [
        "a\x03b",
        "",
        "prompt    logprob  rank",
        '"b"             -     -',
        '"\\u0003"   -0.500     1',
        '"a"        -0.500     1',
        "",
        "answer    logprob  rank  instead",
        '"a"        -0.500     1  "b" -1.500',
        '"\\u0003"   -0.500     1  "\\u0004" -1.500',
        '"b"        -0.500     1  "c" -1.500',
    ]
    lines = folovllm("generate", "ab", "--logprobs", "0", "--n", "2").stdout
    assert lines.splitlines()[5:7] == ["answer 1  logprob  rank", '"b"        -0.500     1']
    assert "answer 2  logprob  rank" in lines.splitlines()


def test_a_dash_reads_standard_input(folovllm: Running) -> None:
    assert folovllm("generate", "-", stdin="ab\nc\n").stdout == "c\nba\n"
    assert folovllm("tokenize", "-", stdin="ab\n").stdout == "2 97 98\n"


def test_stats_go_to_standard_error(folovllm: Running) -> None:
    result = folovllm("generate", "abc", "--stats")
    assert result.stdout == "cba\n"
    assert result.stderr == "3 tokens · first after 250 ms · length\n"
    many = folovllm("generate", "abc" * 9, "--stats").stderr
    assert many == "27 tokens · first after 250 ms · 52.0 tokens/s · length\n"


def test_ids_and_text(folovllm: Running) -> None:
    assert folovllm("tokenize", "hé").stdout == "2 104 233\n"
    assert folovllm("detokenize", "104", "233").stdout == "hé\n"


def test_info_is_an_aligned_table(folovllm: Running) -> None:
    lines = folovllm("info").stdout.splitlines()
    rows = dict(line.split(maxsplit=1) for line in lines)
    assert (rows["service"], rows["model_id"]) == (TOKENIZER_SERVICE, "fake")
    assert rows["eos_token_ids"] == "0 3"
    assert rows["chat_template_fingerprint"] == "-"
    assert len({line.index(rows[name]) for line in lines for name in [line.split()[0]]}) == 1


class FakeEngineService(engine_service_pb2_grpc.EngineServiceServicer):
    """Knows nothing but its model."""

    def GetModelInfo(self, request: Any, context: Any) -> types_pb2.ModelInfo:
        return types_pb2.ModelInfo(model_id="engine's")


@pytest.fixture
def engine_address() -> Iterator[str]:
    server, status = grpc.server(ThreadPoolExecutor(2)), health.HealthServicer()
    status.set(ENGINE_SERVICE, health_pb2.HealthCheckResponse.NOT_SERVING)
    engine_service_pb2_grpc.add_EngineServiceServicer_to_server(
        FakeEngineService(),  # type: ignore[abstract]
        server,
    )
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield address
    server.stop(None).wait()


def test_an_engine_says_that_it_is_one(engine_address: str) -> None:
    result = CliRunner().invoke(commands, ["info", "--server", engine_address])
    rows = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert (rows["service"], rows["model_id"]) == (ENGINE_SERVICE, "engine's")
    assert result.stderr.startswith("it takes token ids; ")
    result = CliRunner().invoke(commands, ["health", "--server", engine_address])
    assert result.exit_code == 1
    assert f"{ENGINE_SERVICE}  NOT_SERVING" in result.stdout


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
    assert result.stderr == "error: --top-p is wrong\n"


def test_an_error_after_text_begins_on_its_own_line(folovllm: Running) -> None:
    result = folovllm("generate", "!!UNAVAILABLE")
    assert (result.exit_code, result.stdout) == (1, "a\n")
    assert result.stderr == "error: no engine is ready\n"


def test_a_deadline_says_what_happened(folovllm: Running) -> None:
    result = folovllm("generate", "forever", "--timeout", "2")
    assert (result.exit_code, result.stdout) == (1, "a\n")
    assert "no complete answer within" in result.stderr


AT_LEAST_1 = "must be at least 1, or -1 for as many as the context has room for"


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--max-tokens", "0", f"{AT_LEAST_1}, got 0"),
        ("--max-tokens", "-2", f"{AT_LEAST_1}, got -2"),
        ("--temperature", "500", "must be between 0 and 100, got 500"),
        ("--temperature", "nan", "must be between 0 and 100, got nan"),
        ("--top-p", "0", "must be between 0 (excluded) and 1, got 0"),
        ("--logprobs", "21", "must be between 0 and 20, got 21"),
        ("--n", "0", "must be between 1 and 128, got 0"),
        ("--stop", "", "must not be empty"),
    ],
)
def test_a_number_out_of_its_range_names_its_flag(
    folovllm: Running, flag: str, value: str, message: str
) -> None:
    for command in ("generate", "chat")[: 1 if flag in ("--logprobs", "--n") else 2]:
        result = folovllm(command, "a", flag, value)
        assert (result.exit_code, result.stderr) == (1, f"error: {flag} {message}\n")
    assert not folovllm.fake.requests


def test_an_error_names_other_flags_too(folovllm: Running) -> None:
    result = folovllm("generate", "a", "--min-tokens", "9", "--max-tokens", "5")
    assert result.stderr == "error: --min-tokens (9) is over --max-tokens (5)\n"


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


@pytest.mark.parametrize(
    ("typed", "remedy"),
    [
        ("gen", "did you mean `{} generate`?"),
        ("genrate", "did you mean `{} generate`?"),
        ("xyz", "`{} --help` lists the commands"),
    ],
)
def test_an_unknown_command_is_likened_to_a_known_one(typed: str, remedy: str) -> None:
    result = CliRunner().invoke(commands, [typed, "a"])
    program = command_name()
    assert result.stderr == f"error: there is no command {typed}; {remedy.format(program)}\n"
    assert result.exit_code == 2


def test_help_lists_every_command_in_its_section_and_each_has_an_example() -> None:
    result = CliRunner().invoke(commands, [], prog_name="folovllm")
    listed = re.findall(r"^  ([a-z]+) {2,}\w", result.output, re.MULTILINE)
    assert listed[:3] == ["demo", "run", "serve"]
    assert sorted(listed) == sorted(commands.commands)
    for name in listed:
        shown = CliRunner().invoke(commands, [name, "--help"], prog_name="folovllm").output
        assert f"Examples:\n    folovllm {name}" in shown


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


def finished(num_tokens: int, decode: float, first: float = 0.25) -> CompletionOutput:
    metrics = RequestMetrics(decode=decode, time_to_first_token=first)
    return CompletionOutput(
        token_ids=[1] * num_tokens, finish_reason=FinishReason.STOP, metrics=metrics
    )


@pytest.mark.parametrize(
    ("pieces", "summary"),
    [
        ([CompletionOutput()], "0 tokens"),
        ([CompletionOutput(token_ids=[1, 2])], "2 tokens"),
        ([finished(1, 0.0)], "1 token · first after 250 ms · stop"),
        # All at once, as after a buffer: the engine took its time nevertheless.
        ([finished(1001, 0.5)], "1,001 tokens · first after 250 ms · 2,000.0 tokens/s · stop"),
        ([finished(15, 9.0)], "15 tokens · first after 250 ms · stop"),
        ([finished(100, 0.049)], "100 tokens · first after 250 ms · stop"),
        ([finished(20, 2.0, 11.0)], "20 tokens · first after 11.0 s · 9.5 tokens/s · stop"),
        (
            [CompletionOutput(token_ids=[1] * 18), finished(4, 1.0), finished(30, 2.0, 0.1)],
            "52 tokens · first after 100 ms · 25.0 tokens/s · stop",
        ),
    ],
)
def test_figures_are_the_engines(pieces: list[CompletionOutput], summary: str) -> None:
    stats = StreamStats()
    for piece in pieces:
        stats.observe(piece)
    assert stats.summary() == summary


def test_structured_output_arrives(folovllm: Running, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "integer"}')
    folovllm("generate", "a", "--json-schema", str(schema))
    folovllm("generate", "a", "--regex", "[ab]")
    by_schema, by_regex = (as_asked(each).sampling_params for each in folovllm.fake.requests)
    assert by_schema == unbounded(json_schema='{"type": "integer"}')
    assert by_regex == unbounded(regex="[ab]")
    result = folovllm("generate", "a", "--regex", "[ab]", "--json-schema", str(schema))
    assert result.stderr == "error: --regex and --json-schema exclude each other; give one\n"


def test_a_text_cannot_control_the_terminal(folovllm: Running) -> None:
    environment = {"FOLOVLLM_SERVER": folovllm.fake.address}
    with closing(Terminal(["generate", "]2[\x1b!"], environment)) as terminal:
        assert terminal.until("[2]") == "!\ufffd[2]"
        assert terminal.exit_code() == 0
    assert "\x1b[2]" not in terminal.raw
