"""Beside protovalidate: any version in one process, and one opinion of a message."""

import pkgutil
import subprocess
import sys
from typing import Any

import protovalidate
import pytest
from google.protobuf.message import Message

from folovllm.bounds.check_bounds import check_bounds
from folovllm.errors import InvalidRequestError
from folovllm.v1 import engine_service_pb2 as engine
from folovllm.v1 import tokenizer_service_pb2 as wire
from folovllm.v1 import types_pb2

NAN, INF = float("nan"), float("inf")
USER: dict[str, Any] = {"role": wire.ROLE_USER, "content": "hi"}


def params(**fields: Any) -> Message:
    return types_pb2.SamplingParams(**fields)


MESSAGES: list[Message] = [
    params(),
    *(params(n=n) for n in (0, 1, 128, 129)),
    *(params(temperature=value) for value in (-1, 0, 100, 101, NAN, INF, -INF)),
    *(params(top_p=value) for value in (0, 0.5, 1, 1.5, NAN)),
    *(params(repetition_penalty=value) for value in (0, 1e-30, 100, INF)),
    *(params(top_k=value) for value in (-2, -1, 0, 2**31 - 1)),
    *(params(max_tokens=value) for value in (0, 1, 2**32 - 1)),
    *(params(logprobs=value) for value in (0, 20, 21)),
    params(stop=["a"] * 16),
    params(stop=["a"] * 17),
    params(stop=["a", ""]),
    params(stop=["ä" * 128]),
    params(stop=["ä" * 128 + "a"]),
    params(logit_bias={1: -100, 2: 100}),
    params(logit_bias={1: 0, 2: NAN}),
    params(logit_bias=dict.fromkeys(range(1025), 0.0)),
    params(json_schema=""),
    params(json_schema="{}"),
    params(regex="a" * 65537),
    params(choice={}),
    params(choice={"options": ["a", ""]}),
    params(bad_words_token_ids=[{}] * 513),
    types_pb2.Request(),
    types_pb2.Request(prompt_token_ids=[1], request_id="a" * 256),
    types_pb2.Request(prompt_token_ids=[1], request_id="a" * 257),
    types_pb2.Request(prompt_token_ids=[1], sampling_params={"min_p": 2}),  # type: ignore[arg-type]
    types_pb2.ForkRequest(request_id="a"),
    types_pb2.ForkRequest(branches=[{}]),  # type: ignore[list-item]
    types_pb2.ForkRequest(request_id="a", branches=[{}, {"n": 0}]),  # type: ignore[list-item]
    types_pb2.ScoreRequest(text="a", continuations=[{"text": "b"}]),  # type: ignore[list-item]
    types_pb2.ScoreRequest(text="a", continuations=[{}]),  # type: ignore[list-item]
    wire.GenerateRequest(),
    wire.GenerateRequest(text=""),
    wire.ChatRequest(),
    wire.ChatRequest(messages=[USER]),  # type: ignore[list-item]
    wire.ChatRequest(messages=[{**USER, "role": 5}]),  # type: ignore[list-item]
    wire.ChatRequest(messages=[USER, {}]),  # type: ignore[list-item]
    wire.ChatRequest(messages=[{**USER, "tool_calls": [{}]}]),  # type: ignore[list-item]
    wire.ChatRequest(messages=[USER], tool_choice={"mode": 4}),  # type: ignore[list-item, arg-type]
    wire.ChatRequest(messages=[USER], tool_choice={"name": ""}),  # type: ignore[list-item, arg-type]
    wire.ChatRequest(messages=[USER], tools=[{"name": "f"}] * 129),  # type: ignore[list-item]
    wire.TokenizeRequest(texts=[""] * 1024),
    wire.TokenizeRequest(texts=[""] * 1025),
    wire.StreamDetokenizeRequest(),
    wire.StreamDetokenizeRequest(options={}),  # type: ignore[arg-type]
    engine.AbortRequest(request_id="a", indexes=range(128)),
    engine.AbortRequest(request_id="a", indexes=range(129)),
    engine.SessionCommand(),
    engine.SessionCommand(cancel="a"),
]


def refused_field(message: Message) -> str | None:
    """The field that our check names; None where it has nothing against the message."""
    try:
        check_bounds(message)
    except InvalidRequestError as error:
        return error.field
    return None


def path_of(violation: protovalidate.Violation) -> str:
    """Protovalidate's path, written as ours."""
    path = ""
    assert violation.proto.field is not None
    for element in violation.proto.field.elements:
        path += f"{'.' if path else ''}{element.field_name}"
        if element.subscript is not None:
            path += f"[{element.subscript.value}]"
    return path


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_it_agrees_on_each_message_and_its_field(message: Message) -> None:
    violations = protovalidate.collect_violations(message)
    field = refused_field(message)
    assert (field is None) == (not violations)
    if field is not None:
        assert field in map(path_of, violations)


# Loads a version of validate.proto that is not ours into the default pool, as protovalidate's older
# versions and other packages do, before or after our stubs. A pool takes one version of a file.
_BESIDE = """
import subprocess, sys
from google.protobuf import descriptor_pool, duration_pb2, field_mask_pb2, timestamp_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorProto

def load_theirs():
    file = FileDescriptorProto.FromString(sys.stdin.buffer.read())
    file.message_type.add(name="OfAnotherVersion")
    descriptor_pool.Default().AddSerializedFile(file.SerializeToString())

def refuse_by_ours():
    from folovllm.bounds.check_bounds import check_bounds
    from folovllm.errors import InvalidRequestError
    from folovllm.v1 import types_pb2
    try:
        check_bounds(types_pb2.SamplingParams(n=129))
    except InvalidRequestError as error:
        print(error)

steps = [load_theirs, refuse_by_ours]
for step in steps if sys.argv[1] == "before" else reversed(steps):
    step()
refuse_by_ours()
rules = descriptor_pool.Default().FindExtensionByName("buf.validate.field")
from folovllm.v1 import types_pb2
options = types_pb2.SamplingParams.DESCRIPTOR.fields_by_name["n"].GetOptions()
print(rules.full_name, options.ByteSize() > 0)
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_default_pool_may_have_another_version_of_its_file(when: str) -> None:
    theirs = pkgutil.get_data("folovllm.v1", "validate.binpb")
    result = subprocess.run(
        [sys.executable, "-c", _BESIDE, when], input=theirs, capture_output=True, check=False
    )
    assert result.stderr == b""
    lines = result.stdout.decode().splitlines()
    assert set(lines[:-1]) == {"n must be between 1 and 128, got 129"}
    assert lines[-1] == "buf.validate.field True"
