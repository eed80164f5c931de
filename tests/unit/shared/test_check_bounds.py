"""check_bounds: what it names, what it does not look at, and that what it names is there."""

import re
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given, settings
from hypothesis import strategies as st

from folovllm.bounds import message_checker
from folovllm.bounds.check_bounds import check_bounds
from folovllm.bounds.table import is_map, message_bounds
from folovllm.errors import InvalidRequestError
from folovllm.sampling_params import SamplingParams
from folovllm.v1 import tokenizer_service_pb2 as wire
from folovllm.v1 import types_pb2
from tools.bounds_table import bounds_table, request_messages

NAN = float("nan")
MESSAGE: dict[str, Any] = {"role": wire.ROLE_ASSISTANT}


def request(**params: Any) -> types_pb2.Request:
    return types_pb2.Request(
        prompt_token_ids=[1], sampling_params=types_pb2.SamplingParams(**params)
    )


def fork(*branches: Any) -> types_pb2.ForkRequest:
    return types_pb2.ForkRequest(request_id="r", branches=branches)


def chat(*messages: Any, **fields: Any) -> wire.ChatRequest:
    return wire.ChatRequest(messages=messages, **fields)


def sequences(count: int, length: int) -> dict[str, Any]:
    return {"bad_words_token_ids": [{"ids": [1] * length}] * count}


REFUSED: list[tuple[Message, str, str]] = [
    (request(n=0), "sampling_params.n", "n must be between 1 and 128, got 0"),
    (request(top_k=-2), "sampling_params.top_k", "top_k must be at least -1, got -2"),
    (
        request(top_p=0.0),
        "sampling_params.top_p",
        "top_p must be between 0 (excluded) and 1, got 0",
    ),
    (
        request(temperature=NAN),
        "sampling_params.temperature",
        "temperature must be between 0 and 100, got nan",
    ),
    (
        request(stop=["a"] * 17),
        "sampling_params.stop",
        "stop may hold at most 16 entries, got 17",
    ),
    (
        request(stop=["a", "b", "c", "ä" * 129]),
        "sampling_params.stop[3]",
        "stop[3] may have at most 256 bytes",
    ),
    (request(stop=[""]), "sampling_params.stop[0]", "stop[0] must not be empty"),
    (
        request(logit_bias={7: 101}),
        "sampling_params.logit_bias[7]",
        "logit_bias[7] must be between -100 and 100, got 101",
    ),
    (request(json_schema=""), "sampling_params.json_schema", "json_schema must not be empty"),
    (
        request(choice={"options": ["a" * 40000] * 2}),
        "sampling_params.choice.options",
        "options may have at most 65536 bytes together",
    ),
    (
        request(**sequences(1, 513)),
        "sampling_params.bad_words_token_ids[0]",
        "bad_words_token_ids[0] may hold 1 to 512 entries, got 513",
    ),
    (
        request(**sequences(137, 512)),
        "sampling_params.bad_words_token_ids",
        "bad_words_token_ids may hold at most 70000 entries in its messages together",
    ),
    (
        types_pb2.Request(),
        "prompt_token_ids",
        "prompt_token_ids must not be empty",
    ),
    (
        types_pb2.Request(prompt_token_ids=[1], request_id="a" * 257),
        "request_id",
        "request_id may have at most 256 bytes",
    ),
    (fork({}, {}, {"n": 129}), "branches[2].n", "n must be between 1 and 128, got 129"),
    (
        fork(*[sequences(100, 512)] * 2),
        "branches",
        "branches may hold at most 100000 entries in its messages together",
    ),
    (wire.GenerateRequest(), "prompt", "prompt must be set"),
    (wire.GenerateRequest(token_ids={}), "token_ids", "token_ids must not be empty"),  # type: ignore[arg-type]
    (
        chat(MESSAGE, {}),
        "messages[1].role",
        "role must be one of ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT, ROLE_TOOL, got 0",
    ),
    (
        chat({**MESSAGE, "tool_calls": [{"name": "f"}, {}]}),
        "messages[0].tool_calls[1].name",
        "name must not be empty",
    ),
    (
        chat(*[{**MESSAGE, "tool_calls": [{"name": "f"}] * 128}] * 33),
        "messages",
        "messages may hold at most 4096 entries in its messages together",
    ),
    (
        wire.CountTokensRequest(conversation={"messages": [{}]}),  # type: ignore[arg-type]
        "conversation.messages[0].role",
        "role must be one of ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT, ROLE_TOOL, got 0",
    ),
]


@pytest.mark.parametrize(("message", "field", "text"), REFUSED, ids=lambda value: str(value)[:40])
def test_the_first_thing_out_of_bounds_is_named(message: Message, field: str, text: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        check_bounds(message)
    assert (refused.value.field, str(refused.value)) == (field, text)


PASSING = [
    request(),
    request(max_tokens=2**32 - 1, seed=2**64 - 1, stop=["ä" * 128] * 16, logprobs=20),
    request(**sequences(136, 512)),
    request(choice={"options": ["a" * 32768] * 2}),
    request(reasoning={"end_token_id": 3}),
    fork(*[sequences(1, 512)] * 128),
    chat(*[{**MESSAGE, "tool_calls": [{"name": "f"}] * 128}] * 32),
    types_pb2.Request(prompt_token_ids=range(1 << 20)),
    wire.GenerateRequest(text="", request_id="a" * 256, cache_salt="s" * 1024),
    wire.GetTokenizerRequest(),
]


@pytest.mark.parametrize("message", PASSING, ids=lambda message: type(message).__name__)
def test_what_is_within_the_bounds_passes(message: Message) -> None:
    check_bounds(message)


def test_elements_are_not_looked_at_where_there_are_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checked: list[str] = []
    check = message_checker.MessageChecker.check

    def counting(self: Any, message: Message, totals: Any = ()) -> None:
        checked.append(message.DESCRIPTOR.name)
        check(self, message, totals)

    monkeypatch.setattr(message_checker.MessageChecker, "check", counting)
    message_checker.checker_of.cache_clear()
    tool_calls = {**MESSAGE, "tool_calls": [{"name": "f"}] * 128}
    for message, count in (
        (chat(*[MESSAGE] * 4097), 1),
        (chat(*[MESSAGE] * 4096, tools=[{"name": "f"}] * 129), 1),
        (fork(*[{}] * 129), 1),
        # 32 messages are within the total, and the one after them is not.
        (chat(*[tool_calls] * 4096), 1 + 33 + 32 * 128),
    ):
        checked.clear()
        with pytest.raises(InvalidRequestError):
            check_bounds(message)
        assert len(checked) == count
    message_checker.checker_of.cache_clear()


def values(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    """Values of a field, most of them within its bounds or just beyond them."""
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        assert field.message_type is not None
        return messages(field.message_type)
    if field.type == FieldDescriptor.TYPE_STRING:
        return st.one_of(st.text(max_size=4), st.sampled_from(["a" * 257, "ä" * 40000]))
    if field.type == FieldDescriptor.TYPE_BOOL:
        return st.booleans()
    if field.type == FieldDescriptor.TYPE_FLOAT:
        return st.floats(width=32)
    small = st.integers(0, 300) if field.type != FieldDescriptor.TYPE_INT32 else st.integers(-3, 9)
    return st.one_of(small, st.just(2**31 - 1))


@st.composite
def messages(draw: st.DrawFn, message: Descriptor) -> Message:
    """Any message of a type."""
    built = GetMessageClass(message)()
    for field in message.fields:
        if not draw(st.booleans()):
            continue
        if is_map(field):
            getattr(built, field.name).update(
                draw(st.dictionaries(st.integers(0, 99), st.floats(width=32), max_size=3))
            )
        elif field.is_repeated:
            elements = draw(st.lists(values(field), max_size=3))
            elements *= draw(st.sampled_from([1, 1, 1, 60]))
            getattr(built, field.name).extend(elements)
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            getattr(built, field.name).CopyFrom(draw(values(field)))
        else:
            setattr(built, field.name, draw(values(field)))
    return built


ROOTS = [message for message in request_messages() if message.name.endswith("Request")]


@settings(max_examples=40)
@given(st.sampled_from(ROOTS).flatmap(messages))
def test_any_message_passes_or_has_the_field_that_is_named(message: Message) -> None:
    try:
        check_bounds(message)
    except InvalidRequestError as error:
        value: Any = message
        for name, index in re.findall(r"(\w+)(?:\[(\w+)\])?(?:\.|$)", error.field):
            if name in value.DESCRIPTOR.oneofs_by_name:
                assert error.field.endswith(name) and value.WhichOneof(name) is None
                return
            value = getattr(value, name)
            value = value[int(index)] if index else value


@settings(max_examples=40)
@given(messages(types_pb2.SamplingParams.DESCRIPTOR))
def test_what_stays_in_the_process_is_held_to_the_same_bounds(
    message: types_pb2.SamplingParams,
) -> None:
    """What the check lets pass, SamplingParams refuses only for how its fields go together."""
    refused = None
    try:
        check_bounds(message)
    except InvalidRequestError as error:
        refused = error
    try:
        SamplingParams.from_proto(message)
    except InvalidRequestError as error:
        assert refused is not None or error.field == "sampling_params.min_tokens"
    else:
        assert refused is None


def test_the_table_has_a_row_for_each_bound() -> None:
    rows = bounds_table().splitlines()
    assert len(rows) == 2 + sum(
        len(message_bounds(message).fields) + len(message_bounds(message).required_oneofs)
        for message in request_messages()
    )
    assert "| `SamplingParams` | `stop` | at most 16 elements; each 1 to 256 bytes |" in rows
    assert "| `SamplingParams` | `top_p` | above 0 to 1 |" in rows
