"""Commands keep their meaning when they are sent, and nothing else is taken for one."""

import json
from dataclasses import asdict

import pytest

from engine_service.core.continued import Continued, ContinuedOutput
from engine_service.core.request import Branch, Request
from engine_service.engine.commands import (
    Abort,
    Command,
    Fork,
    Generate,
    Score,
    decode_commands,
    encode_commands,
)
from engine_service.engine.score_requests import ScoreRequest
from folovllm.errors import ServerError
from folovllm.parameters.reasoning import Reasoning
from folovllm.parameters.structured_output import StructuredOutput
from folovllm.sampling_params import SamplingParams

PARAMS = SamplingParams(
    n=3,
    temperature=1,  # which stays a whole number
    top_p=0.1 + 0.2,
    seed=2**64 - 1,
    stop=("\ud800", "é"),
    stop_token_ids=(5,),
    logit_bias=((3, -0.5), (4, 1.0)),
    bad_words_token_ids=((1, 2), (3,)),
    structured_output=StructuredOutput("choice", ("a", "b")),
    reasoning=Reasoning(7, max_tokens=9),
)
COMMANDS: list[Command] = [
    Generate(Request("a", range(5), PARAMS, seed=1, priority=-3, cache_salt="ü")),
    Generate(Request("b", [1], PARAMS.clone(structured_output=StructuredOutput("regex", "x")))),
    Generate(
        Request(
            "c",
            [1, 2],
            PARAMS,
            num_parent_output_tokens=1,
            continued=Continued(
                (ContinuedOutput(2, [4, 5], logprobs=[-0.1, -1 / 3]), ContinuedOutput(0)),
                branch_index=1,
            ),
        )
    ),
    Generate(Request("d", [1], PARAMS, arrival_time=-7.5, moved=True, is_suspect=True)),
    Fork("a", 1, "f", (Branch(PARAMS.clone(n=1), 4), Branch(SamplingParams(), 5)), 1.25),
    Score("s", ScoreRequest([1, 2], [[3], [4, 5]], priority=2, cache_salt="x")),
    Abort("a"),
    Abort("b", (0, 2)),
]
JSON_OBJECT = SamplingParams(structured_output=StructuredOutput("json_object", True))


@pytest.mark.parametrize("commands", [[], COMMANDS, [Generate(Request("a", [1], JSON_OBJECT))]])
def test_commands_come_back_equal(commands: list[Command]) -> None:
    decoded = decode_commands(encode_commands(commands))
    assert [type(command) for command in decoded] == [type(command) for command in commands]
    assert [asdict(command) for command in decoded] == [asdict(command) for command in commands]


def changed(sampling_params: dict[str, object] | None = None, **fields: object) -> bytes:
    """The first command with other fields in its request and in its sampling parameters."""
    name, values = json.loads(encode_commands(COMMANDS[:1]))[0]
    request = values["request"] | fields
    request["sampling_params"] |= sampling_params or {}
    return json.dumps([[name, {"request": request}]]).encode()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x80\x04K\x01.", "commands are not JSON"),
        (b"[" * 100_000, "commands are not JSON"),
        (b"{}", "commands is not of type"),
        (b'[["Abort"]]', r"commands\[0\] has 1 items, not 2"),
        (b'[["Fly", {}]]', "there is no command Fly"),
        (b'[["Abort", {"name": "a"}]]', r"Abort has the fields \['name'\], not"),
        (b'[["Abort", {"name": 1, "indexes": []}]]', r"Abort\.name is not of type .*str.*: 1"),
        (changed(prompt_token_ids=[1, True]), r"Generate\.request\.prompt_token_ids\[1\]"),
        (changed(prompt_token_ids="12"), r"Generate\.request\.prompt_token_ids is not"),
        (changed(scored_from=1.5), r"Generate\.request\.scored_from is not"),
        (changed({"top_p": 2.0}), "sampling_params: top_p must"),
        (
            changed({"logit_bias": [[1, 2.0, 3]]}),
            r"logit_bias\[0\] has 3 items, not 2",
        ),
        (
            changed({"structured_output": {"kind": "yaml", "value": "x"}}),
            "structured_output is not of type",
        ),
    ],
)
def test_anything_else_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ServerError, match=message):
        decode_commands(data)
