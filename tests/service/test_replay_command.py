"""`folovllm replay` against real services, and with the model in its own process."""

import json
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner, Result

from folovllm.records.record import Ending, Record, RecordedOutput
from folovllm.v1 import tokenizer_service_pb2 as wire
from folovllm.v1.tokenizer_service_pb2_grpc import TokenizerServiceStub
from folovllm_client.api.recording import append_record, record_of
from folovllm_client.api.sync_client import Client
from folovllm_client.cli.commands import commands
from support.processes.service_processes import ServiceProcess


def replay(file: Path, *arguments: str) -> Result:
    return CliRunner().invoke(commands, ["replay", str(file), *arguments])


def cut(output: RecordedOutput, length: int) -> RecordedOutput:
    """The first tokens of an output, as if its caller had stopped it there."""
    return RecordedOutput(output.index, output.token_ids[:length], (), Ending.ABORT)


@pytest.fixture(scope="module")
def records(
    services: tuple[ServiceProcess, ServiceProcess], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[Record]]:
    """A greedy, a drawn and a stopped request, and a chat."""
    file = tmp_path_factory.mktemp("records") / "records.jsonl"
    with Client(services[1].address) as client:
        served = client.model_info()
        prompts = ("Once upon a time", "Hello")
        answers = [client.generate(each, max_tokens=12, temperature=0, n=2) for each in prompts]
        answers.append(client.generate("Hello", max_tokens=12, logprobs=2, min_p=0.1, stop=["e"]))
        chat = client.chat("Hello", max_tokens=6)
        whole = [record_of(each, served) for each in answers]
    with grpc.insecure_channel(services[1].address) as channel:
        message = wire.ChatMessage(role=wire.ROLE_USER, content="Hello")
        request = wire.ApplyChatTemplateRequest(messages=[message], add_generation_prompt=True)
        rendered = TokenizerServiceStub(channel).ApplyChatTemplate(request)
    whole.append(record_of(chat, served, rendered.token_ids))
    for each in whole:
        append_record(file, each)
    return file, whole


def test_what_was_recorded_comes_again(
    records: tuple[Path, list[Record]], tokenizer: ServiceProcess
) -> None:
    result = replay(records[0], "--server", tokenizer.address)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("PASS  4 requests equal, ")
    assert "log-probabilities" in result.stdout
    assert f"demo_model at {tokenizer.address}; results here are not reproducible" in result.stderr


def test_a_model_of_this_process_finds_what_was_changed(
    records: tuple[Path, list[Record]], tmp_path: Path
) -> None:
    file, (greedy, *_) = tmp_path / "changed.jsonl", records[1]
    first, second = greedy.outputs
    ids = [*second.token_ids]
    ids[3] ^= 1
    append_record(file, replace(greedy, outputs=[first, replace(second, token_ids=ids)]))
    # Some of these end while the difference is scored.
    for length in range(4, 9):
        append_record(file, replace(greedy, outputs=[cut(first, length)]))
    append_record(file, replace(greedy, outputs=[replace(cut(second, 4), token_ids=ids[:4])]))
    result = replay(file, "--local", "--dtype", "float32", "--device", "cpu", "--json")
    assert result.exit_code == 1, result.output
    report = json.loads(result.stdout)
    assert [each["equal"] for each in report["requests"]] == [False, *[True] * 5, False]
    (difference,) = report["requests"][0]["differences"]
    assert (difference["index"], difference["position"]) == (1, 3)
    assert (difference["recorded_id"], difference["found_id"]) == (ids[3], ids[3] ^ 1)
    assert difference["nats"] > 0
    assert report["num_differing"] == 2


def test_bad_input_is_one_line(
    records: tuple[Path, list[Record]], tokenizer: ServiceProcess, tmp_path: Path
) -> None:
    file = tmp_path / "cut.jsonl"
    file.write_text(records[0].read_text()[:-100])
    result = replay(file, "--server", tokenizer.address)
    line = f"error: {file}, line 4 is cut off: it has no end\n"
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", line)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--local", "--server", "localhost:1"), "--server and --model or --local exclude each"),
        (("--dtype", "float32"), "--dtype is for a model in this process; add --local"),
        (("--concurrency", "0"), "--concurrency"),
    ],
)
def test_what_was_typed_wrong_is_told(
    records: tuple[Path, list[Record]], arguments: tuple[str, ...], problem: str
) -> None:
    result = replay(records[0], *arguments)
    assert result.exit_code == 2 and problem in result.stderr, result.output
