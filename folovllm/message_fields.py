"""MessageFields: the converters of a dataclass that has the fields of a message of the contract.

For what a request has once. What may come with every token has faster converters of its own. What
a field needs is found out once for each type.
"""

from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import Any, ClassVar, Generic, Self, TypeVar, cast, get_args, get_origin, get_type_hints

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

M = TypeVar("M", bound=Message)
Converter = Callable[[Any], Any]
Converters = tuple[tuple[str, Converter | None], ...]


class MessageFields(Generic[M]):
    """Base of a dataclass that has every field of `message_type` by its name.

    Tuples stand for repeated fields and seconds for Durations. Properties are sent, but not read.
    """

    __slots__ = ()
    message_type: ClassVar[type[Message]]

    def to_proto(self) -> M:
        """The message of the contract."""
        values = {
            name: write(getattr(self, name)) if write else getattr(self, name)
            for name, write in _writers(cast(type, self.message_type))
        }
        return cast(M, self.message_type(**values))

    @classmethod
    def from_proto(cls, message: M) -> Self:
        """Reads a message of the contract."""
        readers = _readers(cast(type, cls), cast(type, cls.message_type))
        values = {
            name: read(getattr(message, name)) if read else getattr(message, name)
            for name, read in readers
        }
        return cls(**values)


@cache
def _writers(message_type: Any) -> Converters:
    """How the attribute for each field becomes what the field is set to; None: as it is."""
    return tuple((field.name, _writer(field)) for field in message_type.DESCRIPTOR.fields)


@cache
def _readers(kind: type, message_type: Any) -> Converters:
    """How each field becomes what the dataclass declares; None: as it is."""
    fields = message_type.DESCRIPTOR.fields_by_name
    types = get_type_hints(kind)
    return tuple((name, _reader(types[name], fields[name])) for name in types if name in fields)


def _writer(field: Any) -> Converter | None:
    if field.message_type is Duration.DESCRIPTOR:
        return _duration
    return None if field.message_type is None else _message


def _reader(declared: Any, field: Any) -> Converter | None:
    if field.message_type is Duration.DESCRIPTOR:
        return _seconds
    if get_origin(declared) is tuple:
        read = getattr(get_args(declared)[0], "from_proto", None)
        return partial(_read_all, read) if read else tuple
    return None if field.message_type is None else declared.from_proto


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration


def _seconds(duration: Duration) -> float:
    return duration.ToNanoseconds() / 1e9


def _message(value: Any) -> Any:
    return [each.to_proto() for each in value] if isinstance(value, tuple) else value.to_proto()


def _read_all(read: Converter, messages: Iterable[Message]) -> tuple[Any, ...]:
    return tuple(map(read, messages))
