"""A request before any scheduler has it, and the caller's note of its prompt."""

import ast
from dataclasses import replace
from pathlib import Path

from engine_service.core.request import Branch, Request
from engine_service.core.sequence_data import SequenceData
from engine_service.engine.commands import Generate, decode_commands, encode_commands
from folovllm.sampling_params import SamplingParams
from folovllm.vllm_names import RequestOutputKind

ENGINE = Path(__file__).parents[3] / "engine_service"
NOTED = Request(
    request_id="req-001",
    prompt="what the ids say",
    prompt_token_ids=[1, 2, 3],
    sampling_params=SamplingParams(n=2),
)


def test_sequences_are_numbered_by_their_index_until_a_scheduler_does() -> None:
    seqs = NOTED.get_seqs()
    assert [seq.seq_id for seq in seqs] == [0, 1]
    assert [seq.get_len() for seq in seqs] == [3, 3]


def test_a_sequence_shows_its_tokens() -> None:
    seq = NOTED.get_seqs()[0]
    before = seq.data
    seq.append(7)
    seq.append(8)
    data = seq.data
    assert (data.get_prompt_len(), data.get_output_len(), data.get_len()) == (3, 2, 5)
    assert data.get_token_ids() == [1, 2, 3, 7, 8] and data.get_last_token_id() == 8
    assert before == SequenceData([1, 2, 3]) and before.get_last_token_id() == 3


def test_nothing_that_sees_a_request_reads_the_note() -> None:
    reads = [
        f"{path.relative_to(ENGINE)}:{node.lineno}"
        for room in ("core", "engine", "rpc", "distributed")
        for path in (ENGINE / room).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "prompt"
    ]
    assert reads == []


def test_no_converter_sends_the_note() -> None:
    data = encode_commands([Generate(NOTED)])
    assert b"what the ids say" not in data
    (command,) = decode_commands(data)
    assert isinstance(command, Generate) and command.request.prompt is None
    assert command.request.prompt_token_ids == NOTED.prompt_token_ids


def test_a_branch_has_other_ids_than_the_note_says() -> None:
    seq = NOTED.get_seqs()[0]
    (branch,) = seq.branch_requests([Branch(SamplingParams())])
    assert branch.prompt is None


def test_parameters_for_one_process_stay_there() -> None:
    params = SamplingParams(
        detokenize=False, truncate_prompt_tokens=2, output_kind=RequestOutputKind.DELTA
    )
    (command,) = decode_commands(
        encode_commands([Generate(replace(NOTED, sampling_params=params))])
    )
    assert isinstance(command, Generate)
    assert command.request.sampling_params == SamplingParams()
