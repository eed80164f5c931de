"""Protobuf's wire format, for messages that are cheaper or only possible to write by hand."""

from collections.abc import Container, Iterator, Sequence

from google.protobuf.descriptor import Descriptor, FieldDescriptor

_LENGTH_DELIMITED = 2
_DEPTH = 4


def varint(number: int) -> bytes:
    """A number as protobuf writes it."""
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def field(number: int, data: bytes) -> bytes:
    """A field of bytes, a text or a message."""
    return varint(number << 3 | _LENGTH_DELIMITED) + varint(len(data)) + data


def nested(path: Sequence[int], data: bytes) -> bytes:
    """Bytes as the field to which a path of field numbers leads."""
    for number in reversed(path):
        data = field(number, data)
    return data


def paths(
    descriptor: Descriptor, kinds: Container[int], repeated: bool = False, depth: int = _DEPTH
) -> Iterator[list[int]]:
    """The paths to all fields of these types, or only to repeated ones."""
    for each in descriptor.fields:
        if each.type in kinds and (not repeated or each.is_repeated):
            yield [each.number]
        if each.type == FieldDescriptor.TYPE_MESSAGE and depth:
            assert each.message_type is not None
            for path in paths(each.message_type, kinds, repeated, depth - 1):
                yield [each.number, *path]
