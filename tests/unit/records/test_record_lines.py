"""A record is one line of JSON, and what is wrong with a line is named."""

import json
from dataclasses import replace
from typing import Any

import pytest

from folovllm.records.record import (
    RECORD_VERSION,
    Ending,
    Origin,
    Record,
    RecordedOutput,
    RecordError,
    RecordKind,
)
from folovllm.sampling_params import SamplingParams
from support.builders.records import record


def changed(**changes: Any) -> str:
    """A line with other values; None leaves one out."""
    values = json.loads(record().to_line()) | changes
    return json.dumps({name: value for name, value in values.items() if value is not None})


def changed_output(**changes: Any) -> str:
    values = json.loads(record().to_line())
    output = values["outputs"][0] | changes
    return changed(outputs=[{name: value for name, value in output.items() if value is not None}])


def test_a_record_is_one_line_and_comes_back() -> None:
    params = SamplingParams(
        n=2, seed=2**64 - 1, temperature=0.7, max_tokens=9, stop=("\n",), logit_bias=((3, -1.5),)
    )
    whole = Record(
        request_id='a"b\n',
        time=1_764_608_896.125,
        prompt_token_ids=[1, 2**32 - 1],
        sampling_params=params.to_proto(),
        outputs=[
            RecordedOutput(0, [5, 6], [-0.1, -2.5], Ending.STOP),
            RecordedOutput(1, [], [], Ending.ABORT),
        ],
        origin=Origin("m", "0.1.0", "a", "b", "c", "d"),
        kind=RecordKind.BRANCH,
        branch_index=3,
        num_parent_output_tokens=1,
        exact=False,
        num_moves=2,
    )
    line = whole.to_line()
    assert line.count("\n") == 1 and line.endswith("\n") and line.isascii()
    read = Record.from_line(line)
    assert read.to_line() == line
    assert list(read.prompt_token_ids) == [1, 2**32 - 1]
    assert SamplingParams.from_proto(read.sampling_params) == params
    assert [list(each.token_ids) for each in read.outputs] == [[5, 6], []]
    assert read.outputs[0].logprobs[1] == -2.5
    assert (read.time, read.request_id, read.kind) == (whole.time, 'a"b\n', RecordKind.BRANCH)
    assert replace(read, sampling_params=whole.sampling_params, outputs=()) == replace(
        whole, outputs=(), prompt_token_ids=read.prompt_token_ids
    )


def test_what_a_later_version_adds_is_passed_over() -> None:
    assert Record.from_line(changed(more=[1])).request_id == record().request_id


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (record().to_line()[:-20], "is no JSON; the file may be cut off, or no record"),
        ("[1]", "is no record: it has no record_version"),
        ('{"prompt": "a"}', "is no record: it has no record_version"),
        ("[" * 100_000, "is no JSON; the file may be cut off, or no record"),
        (
            changed(record_version=RECORD_VERSION + 1),
            "is of record_version 2, this folovllm reads 1; replay it with the version that wrote "
            "it, or a later one",
        ),
        (changed(outputs=None), "has no outputs"),
        (changed(outputs=[]), "has outputs that are not of different indexes below n = 1"),
        (changed(outputs=[7]), "has outputs[0], which is no object"),
        (changed(kind="fork"), "has a wrong kind: it must be one of request, branch"),
        (changed(exact=1), "has a wrong exact: it must be true or false"),
        (
            changed(num_moves=-1),
            "has a wrong num_moves: it must be a whole number from 0 to",
        ),
        (changed(time="now"), "has a wrong time: it is no time as ISO 8601 has it"),
        (changed(request_id="x" * 2000), "has a wrong request_id: it has 2000 characters, over"),
        (changed(prompt_token_ids=""), "has no prompt_token_ids"),
        (changed(prompt_token_ids="AAAA"), "has a wrong prompt_token_ids: it has 3 bytes, no mult"),
        (changed(prompt_token_ids="?"), "has a wrong prompt_token_ids: it is no base64"),
        (changed(num_parent_output_tokens=2), "has a wrong num_parent_output_tokens: it must be a"),
        (
            changed(sampling_params={"seed": "1"}),
            "has a wrong sampling_params.max_tokens: it",
        ),
        (changed(sampling_params={"hotness": 1}), "has a wrong sampling_params: it cannot be read"),
        (
            changed(sampling_params={"seed": 1, "max_tokens": 1, "top_p": 7}),
            "has invalid parameters: top_p must be between 0 (excluded) and 1, got 7",
        ),
        (changed_output(index=1), "has outputs that are not of different indexes below n = 1"),
        (changed_output(token_ids=None), "has no outputs[0].token_ids"),
        (changed_output(logprobs="AAAAAA=="), "has a wrong outputs[0].logprobs: it has 1 for 3 to"),
        (changed_output(finish_reason="tired"), "has a wrong outputs[0].finish_reason: it must be"),
    ],
)
def test_what_is_wrong_with_a_line_is_named(line: str, problem: str) -> None:
    with pytest.raises(RecordError) as raised:
        Record.from_line(line)
    assert str(raised.value).startswith(problem)
