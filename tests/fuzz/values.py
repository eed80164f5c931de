"""Filler: messages of any type, with values that a caller would send or with extreme ones."""

import math
import random
from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

_WORDS = ("the", "fox", "river", "über", "€uro", "😀", "<think>", "</think>", "\n", "{", "}", '"')
_SCHEMAS = (
    '{"type":"object"}',
    '{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]}',
    '{"type":"string","maxLength":3}',
    '{"enum":["a",1,null]}',
)
_WILD_TEXTS = (
    *("", "\0", " ", "a" * 300, "😀" * 100, "\u202e", "\ufffd", "%s%n", "../../x", "\x1b[31m"),
    *("{" * 200, "[" * 200, '{"type":', '{"$ref":"#"}', '{"type":"string","pattern":"[^[^"}'),
    *("(a*)*b", "(?<=x)", "start: start", "{{ 1/0 }}", "null", "-1", "NaN", "a\nb: c"),
)
_INTEGERS = (0, 1, 2, 20, 21, 128, 129, 1024, 1025, 2047, 2048, 2**31 - 1, 2**32 - 1, 2**63 - 1)
_NEGATIVE = (-1, -2, -(2**31), -(2**63))
_FLOATS = (math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-45, 3e38, -1.0, 1.0, 2.0, 100.0, 1.0001)
_COUNTS = (0, 1, 2, 16, 17, 128, 129, 513, 1025)
_INTEGER_RANGES: Mapping[int, tuple[int, int]] = {
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
}
_SMALL, _LARGE, _LARGE_SHARE = 500, 50_000, 0.01
"""How many values a message has, about; most of what can be wrong is wrong in small ones."""
_MAX_DEPTH = 6
_MAX_TOKEN_ID = 250
"""Of every vocabulary that is fuzzed."""

_NEEDED = frozenset(
    {"ids", "role", "name", "content", "sampling_params", "max_tokens", "request_id", "fork_id"}
)
_RARE = frozenset(
    {
        *("tool_calls", "reasoning_content", "tool_call_id", "tools", "tool_choice", "reasoning"),
        *("stop", "bad_words", "prompt_logprobs", "allowed_token_ids", "continue_final_message"),
    }
)
"""What is sound only together with something else."""

Sane = Callable[[random.Random], object]


def _text(rng: random.Random) -> str:
    return " ".join(rng.choices(_WORDS, k=rng.randint(1, 12)))


_BY_NAME: Mapping[str, Sane] = {
    "request_id": lambda rng: rng.choice("abcdefgh"),
    "fork_id": lambda rng: rng.choice(("", "i", "j", "k")),
    "cancel": lambda rng: rng.choice("abcdefghijk"),
    "name": lambda rng: rng.choice("fg"),
    "id": lambda rng: rng.choice(("c1", "c2")),
    "json_schema": lambda rng: rng.choice(_SCHEMAS),
    "parameters": lambda rng: rng.choice(_SCHEMAS),
    "arguments": lambda rng: rng.choice(("{}", '{"a": 1}')),
    "regex": lambda rng: rng.choice(("[a-z]+", "(yes|no)", "\\d{3}")),
    "grammar": lambda rng: rng.choice(('start: "a"+', "start: /[ab]+/")),
    "n": lambda rng: rng.randint(1, 3),
    "max_tokens": lambda rng: rng.randint(1, 6),
    "min_tokens": lambda rng: rng.randint(0, 2),
    "thinking_budget": lambda rng: rng.randint(0, 4),
    "top_k": lambda rng: rng.randint(-1, 50),
    "logprobs": lambda rng: rng.randint(0, 5),
    "prompt_logprobs": lambda rng: rng.randint(0, 5),
    "temperature": lambda rng: rng.choice((0.0, 0.7, 1.0)),
    "repetition_penalty": lambda rng: rng.uniform(0.5, 2),
    "index": lambda rng: rng.randrange(2),
    "priority": lambda rng: rng.randint(-2, 2),
    "role": lambda rng: rng.choice((1, 2, 2, 2, 3, 3, 4)),
}


class Filler:
    """Fills messages; `wild` is the share of values that are extreme."""

    def __init__(self, rng: random.Random, wild: float) -> None:
        self._rng = rng
        self._wild = wild
        self._budget = _LARGE if rng.random() < _LARGE_SHARE else _SMALL

    def fill(self, message: Message, depth: int = 0) -> None:
        """Sets some fields of a message, and those without which it means nothing."""
        rng: random.Random = self._rng
        descriptor: Any = message.DESCRIPTOR
        self._budget -= 1
        for oneof in descriptor.oneofs:
            if len(oneof.fields) > 1 and rng.random() < _share(oneof):
                self._set(message, rng.choice(oneof.fields), depth)
        for each in descriptor.fields:
            oneof = each.containing_oneof
            if oneof is not None and len(oneof.fields) > 1:
                continue
            if rng.random() < _presence(each):
                self._set(message, each, depth)

    def _set(self, message: Message, each: FieldDescriptor, depth: int) -> None:
        if each.type == FieldDescriptor.TYPE_MESSAGE and depth >= _MAX_DEPTH:
            return
        if not each.is_repeated:
            self._set_one(message, each, depth)
        elif _is_map(each.message_type):
            self._fill_map(getattr(message, each.name), each)
        else:
            self._fill_list(getattr(message, each.name), each, depth)

    def _set_one(self, message: Message, each: FieldDescriptor, depth: int) -> None:
        if each.type == FieldDescriptor.TYPE_MESSAGE:
            inner = getattr(message, each.name)
            inner.SetInParent()
            self.fill(inner, depth + 1)
        else:
            setattr(message, each.name, self._scalar(each))

    def _fill_list(self, values: Any, each: FieldDescriptor, depth: int) -> None:
        count = self._count(each)
        if each.type == FieldDescriptor.TYPE_MESSAGE:
            for _ in range(min(count, 4) if depth else count):
                self.fill(values.add(), depth + 1)
        else:
            values.extend([self._scalar(each) for _ in range(min(count, 32))])
            if count > 32:  # what is long need not be varied
                values.extend([values[-1]] * (count - 32))

    def _fill_map(self, values: Any, each: FieldDescriptor) -> None:
        entry: Any = each.message_type
        key, value = entry.fields_by_name["key"], entry.fields_by_name["value"]
        for _ in range(min(self._count(each), 64)):
            values[self._scalar(key)] = self._scalar(value)

    def _count(self, each: FieldDescriptor) -> int:
        rng = self._rng
        usual = (
            rng.randint(1, 2) if each.type == FieldDescriptor.TYPE_MESSAGE else rng.randint(1, 12)
        )
        wanted = rng.choice(_COUNTS) if rng.random() < self._wild else usual
        count = min(wanted, max(0, self._budget))
        self._budget -= count
        return count

    def _scalar(self, each: FieldDescriptor) -> Any:
        if self._rng.random() < self._wild:
            return self._wild_scalar(each)
        by_name = _BY_NAME.get(each.name)
        if by_name is not None:
            return by_name(self._rng)
        return self._sane_scalar(each)

    def _sane_scalar(self, each: FieldDescriptor) -> Any:
        rng = self._rng
        if each.type == FieldDescriptor.TYPE_BOOL:
            return rng.random() < 0.5
        if each.type == FieldDescriptor.TYPE_ENUM:
            values: Any = each.enum_type
            return rng.choice(values.values).number
        if each.type in _INTEGER_RANGES:
            return rng.randrange(_MAX_TOKEN_ID)
        if each.type == FieldDescriptor.TYPE_STRING:
            return _text(rng)
        return rng.randbytes(4) if each.type == FieldDescriptor.TYPE_BYTES else rng.uniform(0.1, 1)

    def _wild_scalar(self, each: FieldDescriptor) -> Any:
        rng = self._rng
        if each.type in _INTEGER_RANGES:
            low, high = _INTEGER_RANGES[each.type]
            value = rng.choice((*_INTEGERS, *_NEGATIVE, rng.randint(low, high)))
            return min(max(value, low), high)
        if each.type == FieldDescriptor.TYPE_ENUM:
            return rng.choice((-1, 0, 99, 2**31 - 1))
        if each.type == FieldDescriptor.TYPE_STRING:
            text = rng.choice(_WILD_TEXTS)
            repeats = 1 if rng.random() < 0.98 else 200
            self._budget -= repeats
            return text * repeats
        if each.type == FieldDescriptor.TYPE_BYTES:
            return rng.randbytes(rng.choice((0, 1, 1000)))
        return rng.choice(_FLOATS) if each.type != FieldDescriptor.TYPE_BOOL else True


def _share(oneof: Any) -> float:
    """How often one of its members is set."""
    return 0.1 if oneof.name == "structured_output" else 0.95


def _presence(each: FieldDescriptor) -> float:
    """How often a field is set: nearly always where a message hardly makes sense without it."""
    owner: Any = each.containing_type
    if each.name in _RARE:
        return 0.03
    if each.name in _NEEDED or (each.is_repeated and owner.name != "SamplingParams"):
        return 0.98
    return 0.2


def _is_map(descriptor: Descriptor | None) -> bool:
    return descriptor is not None and descriptor.GetOptions().map_entry
