"""The contract bounds whatever could be large, and says the same in words as in options."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)
from google.protobuf.descriptor_pool import DescriptorPool

from folovllm.bounds.field_bounds import FieldBounds
from folovllm.bounds.options import UnsupportedOptionError, field_bounds
from folovllm.bounds.table import is_map, message_bounds
from folovllm.v1 import engine_service_pb2, tokenizer_service_pb2, types_pb2
from tools.bounds_table import request_messages

ROOT = Path(__file__).parents[2]
FILES = [module.DESCRIPTOR for module in (types_pb2, tokenizer_service_pb2, engine_service_pb2)]
SIZED = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)


def with_nested(messages: Iterable[Descriptor]) -> Iterator[Descriptor]:
    for message in messages:
        if not message.GetOptions().map_entry:
            yield message
            yield from with_nested(message.nested_types)


MESSAGES = [
    message for file in FILES for message in with_nested(file.message_types_by_name.values())
]
FIELDS = [field for message in MESSAGES for field in message.fields]


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.full_name)
def test_nothing_can_be_large_without_a_bound(field: FieldDescriptor) -> None:
    bounds = field_bounds(field) or FieldBounds()
    if field.is_repeated:
        assert bounds.max_count is not None
        if field.type in SIZED:
            assert bounds.each is not None and bounds.each.max_bytes is not None
    elif field.type in SIZED:
        assert bounds.max_bytes is not None
    if is_map(field):
        key, value = field.message_type.fields  # type: ignore[union-attr]
        assert key.type not in SIZED and value.type not in SIZED


def test_an_enum_in_a_request_has_only_values_that_are_known() -> None:
    enums = [field for message in request_messages() for field in message.fields if field.enum_type]
    assert {field.full_name for field in enums} == {
        "folovllm.v1.ChatMessage.role",
        "folovllm.v1.ToolChoice.mode",
    }
    for field in enums:
        bounds = field_bounds(field)
        assert bounds is not None and bounds.allowed


def test_no_message_holds_its_own_type_so_that_none_nests_deeper_than_the_contract() -> None:
    def depth(message: Descriptor, above: tuple[Descriptor, ...] = ()) -> int:
        assert message not in above, message.full_name
        below = [field.message_type for field in message.fields if field.message_type]
        return 1 + max((depth(each, (*above, message)) for each in below), default=0)

    assert max(map(depth, MESSAGES)) < 8


def described_field(options: bytes) -> FieldDescriptor:
    """A string field with these bytes as its options."""
    field = FieldDescriptorProto(
        name="field",
        number=1,
        label=FieldDescriptorProto.LABEL_OPTIONAL,
        type=FieldDescriptorProto.TYPE_STRING,
    )
    field.options.MergeFromString(options)
    file = FileDescriptorProto(name="test.proto", package="test", syntax="proto3")
    file.message_type.append(DescriptorProto(name="Message", field=[field]))
    pool = DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return pool.FindFieldByName("test.Message.field")


def test_a_rule_that_nothing_checks_is_an_error() -> None:
    # buf.validate.field is 1159, its string rules are 14, of which 5 is max_bytes and 6 a pattern.
    assert field_bounds(described_field(bytes.fromhex("ba48 04 72022804"))) == FieldBounds(
        max_bytes=4
    )
    with pytest.raises(UnsupportedOptionError, match="pattern"):
        field_bounds(described_field(bytes.fromhex("ba48 05 7203320161")))


def stated(bounds: FieldBounds) -> set[float]:
    """The numbers of a field's bounds."""
    each = bounds.each or FieldBounds()
    numbers: list[float | None] = [
        *(bounds.min_count, bounds.max_count, bounds.min_bytes, bounds.max_bytes),
        *(bounds.min_ids, bounds.max_ids, bounds.max_elements, bounds.max_total_bytes),
        *(each.min_bytes, each.max_bytes),
    ]
    for range_ in (bounds.range, each.range):
        if range_ is not None:
            numbers += [range_.low, range_.high]
    return {float(number) for number in numbers if number is not None}


_NUMBER = r"(-?\d[\d,]*)"
_STATEMENTS = [
    rf"[Rr]ange [(\[]?{_NUMBER}(?: to |, ){_NUMBER}",
    rf"[Aa]bove {_NUMBER} to {_NUMBER}",
    rf"each {_NUMBER} to {_NUMBER}",
    rf"{_NUMBER} to {_NUMBER}(?: of them|;| ids| bytes)",
    rf"[Aa]t most {_NUMBER}\b(?! [KM]iB)",
]


def comments() -> dict[str, str]:
    """The comment of each field, by the field's full name, as buf reads it."""
    buf = shutil.which("buf", path=str(Path(sys.executable).parent))
    assert buf, "buf-bin is one of the dev extra"
    command = [buf, "build", str(ROOT / "protos"), "-o", "-#format=binpb"]
    files = FileDescriptorSet.FromString(subprocess.run(command, capture_output=True).stdout)
    found = {}
    for file in files.file:
        if not file.name.startswith("folovllm/"):
            continue
        for location in file.source_code_info.location:
            path = list(location.path)
            message, names = None, [file.package]
            while len(path) >= 2:
                kind, index, *path = path
                if kind == 4 and message is None:
                    message = file.message_type[index]
                elif kind == 3 and message is not None:
                    message = message.nested_type[index]
                elif kind == 2 and message is not None and not path:
                    name = ".".join([*names, message.field[index].name])
                    found[name] = " ".join(location.leading_comments.split())
                    break
                else:
                    break
                names.append(message.name)
    return found


def test_what_comments_say_is_what_options_say() -> None:
    fields = {field.full_name: field for field in FIELDS}
    texts, checked = comments(), 0
    assert fields.keys() <= texts.keys()
    for name, field in fields.items():
        # A bound of more than one field is the engine's.
        text = re.sub(r"whose number times .*? 200,000", "", texts[name])
        numbers = stated(field_bounds(field) or FieldBounds())
        for statement in _STATEMENTS:
            for groups in re.findall(statement, text):
                for number in [groups] if isinstance(groups, str) else groups:
                    checked += 1
                    assert float(number.replace(",", "")) in numbers, (name, text)
    assert checked >= 40


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.full_name)
def test_every_option_is_understood(message: Descriptor) -> None:
    assert message_bounds(message).fields.keys() <= {field.name for field in message.fields}
