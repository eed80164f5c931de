"""Every field of a message survives the way to the dataclass and back."""

from typing import TypeVar, cast

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from folovllm.model_info import ModelInfo
from folovllm.outputs import CompletionOutput
from folovllm.v1 import types_pb2

M = TypeVar("M", bound=Message)

# What SamplingParams does not take as it is filled below.
_VALID = {
    "n": 3,
    "top_p": 0.5,
    "temperature": 0.5,
    "min_p": 0.25,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.5,
    "max_tokens": 40,
    "logprobs": 5,
    "prompt_logprobs": 6,
}


def fill(message: M, skip: frozenset[str] = frozenset()) -> M:
    """Sets every field to something that is not its default; of a oneof the last stays."""
    message.SetInParent()  # it may have no fields
    fields = cast(list[FieldDescriptor], list(message.DESCRIPTOR.fields))
    for number, field in enumerate(fields, 2):
        if field.name in skip:
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            getattr(message, field.name)[number] = 0.5
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            assert field.message_type
            if field.message_type.full_name == "google.protobuf.Duration":
                getattr(message, field.name).FromNanoseconds(number * 1_000_000)
            elif field.is_repeated:
                fill(getattr(message, field.name).add())
            else:
                fill(getattr(message, field.name))
        elif field.is_repeated:
            value = f"text {number}" if field.type == FieldDescriptor.TYPE_STRING else number
            getattr(message, field.name).append(value)
        else:
            setattr(message, field.name, _VALID.get(field.name, scalar(field, number)))
    return message


def scalar(field: FieldDescriptor, number: int) -> object:
    if field.type == FieldDescriptor.TYPE_STRING:
        return f"text {number}"
    if field.type == FieldDescriptor.TYPE_BOOL:
        return not field.has_presence
    if field.type in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE):
        return number / 2
    if field.type == FieldDescriptor.TYPE_ENUM:
        return 1
    return number


def test_completion_output_keeps_every_field() -> None:
    reasons = {"stop_token_id", "stop_string", "eos", "output_complete"}
    for kept in reasons:
        others = frozenset(reasons - {kept})
        message = fill(types_pb2.CompletionOutput(), others)
        assert message.WhichOneof("stop_reason") == kept
        assert CompletionOutput.from_proto(message).to_proto() == message


def test_what_is_absent_stays_absent() -> None:
    message = types_pb2.CompletionOutput(request_id="a", text="b")
    position = message.logprobs.add()
    position.token.token_id = 4
    output = CompletionOutput.from_proto(message)
    assert output.logprobs[0].token.logprob is None and output.cumulative_logprob is None
    assert output.finish_reason is None and output.info is None and output.usage is None
    assert output.to_proto() == message


def test_every_finish_reason_is_known() -> None:
    for value in types_pb2.FinishReason.values():
        message = types_pb2.CompletionOutput(finish_reason=value, stop_token_id=3)
        output = CompletionOutput.from_proto(message)
        assert output.finished() == (value != types_pb2.FINISH_REASON_UNSPECIFIED)
        assert output.to_proto().finish_reason == value


def test_model_info_keeps_every_field() -> None:
    message = fill(types_pb2.ModelInfo())
    assert ModelInfo.from_proto(message).to_proto() == message
