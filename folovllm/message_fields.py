"""MessageFields: the converters of a dataclass that has the fields of a message of the contract.

For what a request has once. What may come with every token has faster converters of its own.
"""

from functools import cache
from typing import Any, ClassVar, Generic, Self, TypeVar, cast, get_args, get_origin, get_type_hints

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

M = TypeVar("M", bound=Message)
_types = cache(get_type_hints)


class MessageFields(Generic[M]):
    """Base of a dataclass that has every field of `message_type` by its name.

    Tuples stand for repeated fields and seconds for Durations. Properties are sent, but not read.
    """

    __slots__ = ()
    message_type: ClassVar[type[Message]]

    def to_proto(self) -> M:
        """The message of the contract."""
        fields = self.message_type.DESCRIPTOR.fields
        values = {field.name: _to_wire(getattr(self, field.name), field) for field in fields}
        return cast(M, self.message_type(**values))

    @classmethod
    def from_proto(cls, message: M) -> Self:
        """Reads a message of the contract."""
        types = _types(cast(type, cls))
        names = types.keys() & message.DESCRIPTOR.fields_by_name
        return cls(**{name: _from_wire(getattr(message, name), types[name]) for name in names})


def _to_wire(value: Any, field: Any) -> Any:
    if field.message_type is Duration.DESCRIPTOR:
        duration = Duration()
        duration.FromNanoseconds(round(value * 1e9))
        return duration
    if field.message_type is None:
        return value
    return [each.to_proto() for each in value] if isinstance(value, tuple) else value.to_proto()


def _from_wire(value: Any, kind: Any) -> Any:
    """The value of a message's field as `kind`, which the dataclass declares."""
    if isinstance(value, Duration):
        return value.ToNanoseconds() / 1e9
    if get_origin(kind) is tuple:
        read = getattr(get_args(kind)[0], "from_proto", None)
        return tuple(map(read, value) if read else value)
    return kind.from_proto(value) if isinstance(value, Message) else value
