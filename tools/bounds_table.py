"""Prints the bounds of requests as a table in Markdown: python -m tools.bounds_table

The contract's options are where they stand; docs/operations.md includes what this prints.
"""

from collections.abc import Iterator

from google.protobuf.descriptor import Descriptor

from folovllm.bounds.field_bounds import FieldBounds, Range
from folovllm.bounds.table import is_map, message_bounds
from folovllm.v1 import engine_service_pb2, tokenizer_service_pb2


def bounds_table() -> str:
    """A row for each bounded field of a message that callers send, in the contract's order."""
    rows = [
        f"| `{message.full_name.removeprefix('folovllm.v1.')}` | {name} | {text} |"
        for message in request_messages()
        for name, text in _rows(message)
    ]
    return "\n".join(["| message | field | may be |", "|---|---|---|", *rows])


def request_messages() -> list[Descriptor]:
    """The types of messages that callers send, and of those inside them, each once."""
    found: dict[str, Descriptor] = {}
    files = [tokenizer_service_pb2.DESCRIPTOR, engine_service_pb2.DESCRIPTOR]
    for file in files:
        for service in file.services_by_name.values():
            for method in service.methods:
                _add(method.input_type, found)
    return list(found.values())


def _add(message: Descriptor, found: dict[str, Descriptor]) -> None:
    if message.full_name in found or message.GetOptions().map_entry:
        return
    found[message.full_name] = message
    for field in message.fields:
        if field.message_type is not None:
            _add(field.message_type, found)


def _rows(message: Descriptor) -> Iterator[tuple[str, str]]:
    bounds = message_bounds(message)
    for oneof in message.oneofs:
        if oneof.name in bounds.required_oneofs:
            members = ", ".join(f"`{field.name}`" for field in oneof.fields)
            yield members, "exactly one of them"
    for field in message.fields:
        if field.name in bounds.fields:
            stated = bounds.fields[field.name]
            yield f"`{field.name}`", "; ".join(_texts(stated, "entries" if is_map(field) else ""))


def _texts(bounds: FieldBounds, noun: str) -> Iterator[str]:
    if bounds.range is not None:
        yield _range(bounds.range)
    if bounds.allowed is not None:
        yield ", ".join(f"`{name}`" for name in bounds.allowed.values())
    if bounds.max_bytes is not None:
        yield f"{_span(bounds.min_bytes, bounds.max_bytes)} bytes"
    if bounds.max_count is not None:
        yield f"{_span(bounds.min_count, bounds.max_count)} {noun or 'elements'}"
    if bounds.each is not None:
        yield f"each {'; '.join(_texts(bounds.each, noun))}"
    if bounds.max_total_bytes is not None:
        yield f"together at most {bounds.max_total_bytes:,} bytes"
    if bounds.max_ids is not None:
        yield f"{_span(bounds.min_ids, bounds.max_ids)} ids each"
    elif bounds.min_ids:
        yield "not empty"
    if bounds.max_elements is not None:
        yield f"together at most {bounds.max_elements:,} elements of lists below it"


def _span(low: int, high: int) -> str:
    return f"{low:,} to {high:,}" if low else f"at most {high:,}"


def _range(bounds: Range) -> str:
    if bounds.is_width:
        return f"at least {bounds.low:g}"
    return f"{'above ' if bounds.low_excluded else ''}{bounds.low:g} to {bounds.high:g}"


if __name__ == "__main__":
    print(bounds_table())
