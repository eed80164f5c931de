"""Reads the options of the contract's fields.

They are protovalidate's, buf/validate/validate.proto, and folovllm/v1/bounds.proto. The default
descriptor pool knows only the latter: other packages may have put any version of the former there,
or may yet do so. A pool of our own has both, and reads the options from their bytes.
"""

import functools
import pkgutil
from collections.abc import Mapping
from typing import Any

from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    duration_pb2,
    field_mask_pb2,
    message_factory,
    timestamp_pb2,
)
from google.protobuf.descriptor import FieldDescriptor, OneofDescriptor
from google.protobuf.message import Message

from folovllm.bounds.field_bounds import FieldBounds, Range
from folovllm.v1 import bounds_pb2

_FLOATS = {"float", "double"}
# The least and the greatest number of each type of whole numbers.
_WIDTHS = {
    f"{sign}{kind}{bits}": (0, 2**bits - 1)
    if unsigned
    else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    for bits in (32, 64)
    for sign, kind, unsigned in (
        ("", "int", False),
        ("u", "int", True),
        ("s", "int", False),
        ("", "fixed", True),
        ("s", "fixed", False),
    )
}


class UnsupportedOptionError(ValueError):
    """The contract states a bound that nothing here would check."""


def field_bounds(field: FieldDescriptor) -> FieldBounds | None:
    """What a field's options say; None if nothing. Raises UnsupportedOptionError."""
    rules, own = _options("FieldOptions", field, "buf.validate.field", "folovllm.v1.bounds")
    if not rules and not own:
        return None
    values = _read(rules, field)
    for name, value in own.items():
        values["max_total_bytes" if name == "max_bytes" else name] = value
    return FieldBounds(**values)


def is_required(oneof: OneofDescriptor) -> bool:
    """Whether one member of a oneof has to be set."""
    (rules,) = _options("OneofOptions", oneof, "buf.validate.oneof")
    return bool(rules.get("required", False))


def _read(rules: Mapping[str, Any], field: FieldDescriptor) -> dict[str, Any]:
    """The values of FieldBounds that FieldRules stand for."""
    values: dict[str, Any] = {}
    for kind, stated in rules.items():
        if kind in _WIDTHS or kind in _FLOATS:
            values["range"] = _range(kind, _given(stated))
            continue
        for name, value in _given(stated).items():
            match kind, name:
                case ("string", "min_bytes" | "max_bytes"):
                    values[name] = value
                case ("bytes", "max_len"):
                    values["max_bytes"] = value
                case ("repeated", "min_items") | ("map", "min_pairs"):
                    values["min_count"] = value
                case ("repeated", "max_items") | ("map", "max_pairs"):
                    values["max_count"] = value
                case ("repeated", "items") | ("map", "values"):
                    values["each"] = FieldBounds(**_read(_given(value), field))
                case ("enum", "defined_only" | "not_in"):
                    values["allowed"] = _allowed(field, _given(stated))
                case _:
                    raise UnsupportedOptionError(f"{field.full_name}: {kind}.{name}")
    return values


def _range(kind: str, stated: Mapping[str, Any]) -> Range:
    low, high = (float("-inf"), float("inf")) if kind in _FLOATS else _WIDTHS[kind]
    if unknown := stated.keys() - ({"gt", "gte", "lte"} if kind in _FLOATS else {"gte", "lte"}):
        raise UnsupportedOptionError(f"{kind}.{', '.join(unknown)}")
    return Range(
        stated.get("gte", stated.get("gt", low)),
        stated.get("lte", high),
        low_excluded="gt" in stated,
        is_width="lte" not in stated,
    )


def _allowed(field: FieldDescriptor, stated: Mapping[str, Any]) -> dict[int, str]:
    """Values that only a later version defines are not among them: what they ask for is unknown."""
    assert field.enum_type is not None
    refused = stated.get("not_in", ())
    values = field.enum_type.values
    return {value.number: value.name for value in values if value.number not in refused}


def _options(kind: str, described: Any, *extensions: str) -> list[dict[str, Any]]:
    """What each of these extensions has set in the options of a field or a oneof."""
    if not described.has_options:
        return [{} for _ in extensions]
    pool = _pool()
    options = message_factory.GetMessageClass(pool.FindMessageTypeByName(f"google.protobuf.{kind}"))
    # Any: types know of extensions only where they are generated.
    message: Any = options.FromString(described.GetOptions().SerializeToString())
    return [
        _given(message.Extensions[pool.FindExtensionByName(extension)]) for extension in extensions
    ]


def _given(message: Message) -> dict[str, Any]:
    return {field.name: value for field, value in message.ListFields()}


@functools.cache
def _pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    for module in (descriptor_pb2, duration_pb2, field_mask_pb2, timestamp_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    validate = pkgutil.get_data("folovllm.v1", "validate.binpb")
    assert validate is not None
    pool.AddSerializedFile(validate)
    pool.AddSerializedFile(bounds_pb2.DESCRIPTOR.serialized_pb)
    return pool
