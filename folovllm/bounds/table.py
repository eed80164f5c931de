"""The table of the contract's bounds: of each message, what its fields may hold."""

import functools
from dataclasses import dataclass

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from folovllm.bounds.field_bounds import FieldBounds, Range
from folovllm.bounds.options import field_bounds, is_required


@dataclass(frozen=True, slots=True)
class MessageBounds:
    """The bounds of one type of message, by the names of its fields."""

    fields: dict[str, FieldBounds]
    """Those that have any."""
    required_oneofs: tuple[str, ...]
    """Those of which one member has to be set."""

    def range(self, name: str) -> Range:
        """The numbers that a field may hold. Raises ValueError where the contract has none."""
        bounds = self.fields[name].range
        if bounds is None:
            raise ValueError(f"the contract has no range for {name}")
        return bounds

    def max_count(self, name: str) -> int:
        """The most elements of a field. Raises ValueError where the contract has none."""
        return _stated(name, self.fields[name].max_count)

    def max_bytes(self, name: str) -> int:
        """The most bytes of a string, or of each of a list. Raises ValueError as max_count."""
        bounds = self.fields[name]
        return _stated(name, (bounds.each or bounds).max_bytes)

    def max_elements(self, name: str) -> int:
        """The most elements below a field together. Raises ValueError as max_count."""
        return _stated(name, self.fields[name].max_elements)


@functools.cache
def message_bounds(message: Descriptor) -> MessageBounds:
    """What the contract says about a message. Raises UnsupportedOptionError."""
    fields = ((field, field_bounds(field)) for field in message.fields)
    return MessageBounds(
        {field.name: bounds for field, bounds in fields if bounds is not None},
        tuple(oneof.name for oneof in message.oneofs if is_required(oneof)),
    )


def is_map(field: FieldDescriptor) -> bool:
    """Whether a field is a map, which descriptors show as a list of entries."""
    entry = field.message_type
    return entry is not None and entry.GetOptions().map_entry


def is_list(field: FieldDescriptor) -> bool:
    """Whether a field is repeated, as maps are too."""
    # In all versions of protobuf; is_repeated is newer than some that a client may have.
    return isinstance(field.default_value, list)


def _stated(name: str, limit: int | None) -> int:
    if limit is None:
        raise ValueError(f"the contract has no such bound for {name}")
    return limit
