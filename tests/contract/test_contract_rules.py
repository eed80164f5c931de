"""Rules of the contract that buf does not know."""

from collections.abc import Iterable, Iterator

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor

from folovllm.v1 import engine_service_pb2, tokenizer_service_pb2, types_pb2

FILES: list[FileDescriptor] = [
    module.DESCRIPTOR for module in (types_pb2, tokenizer_service_pb2, engine_service_pb2)
]


def with_nested(messages: Iterable[Descriptor]) -> Iterator[Descriptor]:
    for message in messages:
        yield message
        yield from with_nested(message.nested_types)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_no_member_of_a_oneof_can_be_false(file: FileDescriptor) -> None:
    """One that is set to false would say that something else holds, but not what."""
    flags = [
        f"{message.name}.{field.name}"
        for message in with_nested(file.message_types_by_name.values())
        for oneof in message.oneofs
        for field in oneof.fields
        # The oneof of an optional field, which is named for it, only tells whether it is set.
        if field.type == FieldDescriptor.TYPE_BOOL and oneof.name != f"_{field.name}"
    ]
    assert flags == []
