"""MessageChecker: the check of one type of message, made once of its bounds.

It looks only at fields that are set, and at the numbers of elements before any element: what is
refused costs no more than the first thing that is wrong with it.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from folovllm.bounds.checks import (
    Check,
    count_check,
    counted,
    each_check,
    each_value_check,
    total_bytes_check,
    value_check,
)
from folovllm.bounds.field_bounds import FieldBounds
from folovllm.bounds.table import is_list, is_map, message_bounds
from folovllm.bounds.violation import Total, TotalExceededError, ViolationError

Totals = tuple[Total, ...]
# The check of what lies below a field, which also counts for the totals that it is part of.
DeepCheck = Callable[[Any, Totals], None]

_NONE = FieldBounds()


class MessageChecker:
    """Checks messages of one type. They nest, but none holds one of its own type."""

    def __init__(self, message: Descriptor) -> None:
        bounds = message_bounds(message)
        self._shallow: dict[FieldDescriptor, Check] = {}
        self._deep: dict[FieldDescriptor, DeepCheck] = {}
        self._lists = frozenset(field for field in message.fields if is_list(field))
        self._required_oneofs = bounds.required_oneofs
        # Fields whose value when they are not set breaks a bound, and how.
        self._required: list[tuple[str, str]] = []
        for field in message.fields:
            self._add(field, bounds.fields.get(field.name, _NONE))

    @property
    def checks_anything(self) -> bool:
        """Whether any message of the type could be refused, or count for a total."""
        return bool(self._shallow or self._deep or self._lists or self._required_oneofs)

    def check(self, message: Message, totals: Totals = ()) -> None:
        """Raises ViolationError, or TotalExceededError of one of the totals."""
        fields = message.ListFields()
        deep: list[tuple[FieldDescriptor, Any]] | None = None
        for field, value in fields:
            check = self._shallow.get(field)
            if check is not None:
                try:
                    check(value)
                except ViolationError as error:
                    raise error.under(field.name) from None
            if field in self._deep:
                deep = deep or []
                deep.append((field, value))
        if totals:
            count = sum(len(value) for field, value in fields if field in self._lists)
            for total in totals:
                total.take(count)
        for name, problem in self._required:
            if not getattr(message, name):
                raise ViolationError(problem).under(name)
        for name in self._required_oneofs:
            if message.WhichOneof(name) is None:
                raise ViolationError("must be set").under(name)
        for field, value in deep or ():
            try:
                self._deep[field](value, totals)
            except ViolationError as error:
                raise error.under(field.name) from None

    def _add(self, field: FieldDescriptor, bounds: FieldBounds) -> None:
        if is_list(field):
            self._add_list(field, bounds)
        elif field.message_type is not None:
            check = _message_check(field.message_type, bounds)
            if check is not None:
                self._deep[field] = check
        else:
            if (value := value_check(bounds)) is None:
                return
            self._shallow[field] = value
            if not field.has_presence and (problem := _problem(value, field.default_value)):
                self._required.append((field.name, problem))

    def _add_list(self, field: FieldDescriptor, bounds: FieldBounds) -> None:
        if (count := count_check(bounds)) is not None:
            self._shallow[field] = count
        if bounds.min_count:
            self._required.append((field.name, counted(bounds.min_count, bounds.max_count or 0, 0)))
        if (deep := _elements_check(field, bounds)) is not None:
            self._deep[field] = deep


@functools.cache
def checker_of(message: Descriptor) -> MessageChecker:
    """The checker of a type. Raises UnsupportedOptionError."""
    return MessageChecker(message)


def _elements_check(field: FieldDescriptor, bounds: FieldBounds) -> DeepCheck | None:
    """The check of a list's or map's elements, once their number is known to be allowed."""
    if field.message_type is not None and not is_map(field):
        check = _message_check(field.message_type, bounds)
        return None if check is None else _messages_check(check, bounds.max_elements)
    checks: list[Check] = []
    if bounds.each is not None and (value := value_check(bounds.each)) is not None:
        checks.append(each_value_check(value) if is_map(field) else each_check(value))
    if bounds.max_total_bytes is not None:
        checks.append(total_bytes_check(bounds.max_total_bytes))
    if not checks:
        return None

    def check_all(values: Any, totals: Totals) -> None:
        for check in checks:
            check(values)

    return check_all


def _message_check(message: Descriptor, bounds: FieldBounds) -> DeepCheck | None:
    """The check of one message in a field of these bounds."""
    checker = checker_of(message)
    if bounds.max_ids is None and not bounds.min_ids:
        return checker.check if checker.checks_anything else None
    low = bounds.min_ids
    high = bounds.max_ids or message_bounds(message).max_count("ids")

    def check(token_ids: Any, totals: Totals) -> None:
        if not low <= (count := len(token_ids.ids)) <= high:
            raise ViolationError(counted(low, high, count))
        for total in totals:
            total.take(count)

    return check


def _messages_check(check: DeepCheck, max_elements: int | None) -> DeepCheck:
    """The check of all messages of a list."""

    def check_each(messages: Sequence[Message], totals: Totals) -> None:
        index = 0
        try:
            for message in messages:
                check(message, totals)
                index += 1
        except ViolationError as error:
            raise error.under(f"[{index}]") from None

    def check_together(messages: Sequence[Message], totals: Totals) -> None:
        total = Total(max_elements or 0)
        try:
            check_each(messages, (*totals, total))
        except TotalExceededError as error:
            if error.total is not total:
                raise
            raise ViolationError(
                f"may hold at most {total.limit} entries in its messages together"
            ) from None

    return check_each if max_elements is None else check_together


def _problem(check: Check, value: object) -> str | None:
    """What is wrong with a value; None if nothing."""
    try:
        check(value)
    except ViolationError as error:
        return error.problem
    return None
