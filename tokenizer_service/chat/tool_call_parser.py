"""ToolCallParser: the text of one tool call, while it arrives, becomes events.

The expected form is that of Qwen3's chat templates, `{"name": "…", "arguments": {…}}`; the name is
returned as soon as the arguments begin, and then these as they arrive. Any other JSON object with a
name and arguments is accepted too, at its end. Text that turns out not to be a call is content,
from the point where that shows; nothing is returned twice.
"""

import json
import re
from typing import Any

from folovllm.chat import ToolCall
from folovllm.chat_outputs import (
    ChatEvent,
    ContentDelta,
    ToolCallArgumentsDelta,
    ToolCallEnd,
    ToolCallStart,
)
from folovllm.errors import InvalidRequestError
from tokenizer_service.chat.json_object_scanner import JsonObjectScanner

_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*(?=\{)')
# A longer head is parsed only once, at the end of the call.
_MAX_HEAD = 1024


class ToolCallParser:
    """One call, between its markers. `opening` and `closing` are the markers' text."""

    def __init__(self, call_id: str, opening: str, closing: str) -> None:
        self._id = call_id
        self._closing = closing
        self._held = opening
        """Text that was not returned; until a call has begun, with the opening marker."""
        self._opening = opening
        self._name: str | None = None
        self._arguments = ""
        self._scanner = JsonObjectScanner()
        self._broken = False

    def push(self, text: str) -> list[ChatEvent]:
        """Parses the next piece of text."""
        if self._broken:
            return _content(text)
        self._held += text
        if self._name is None:
            return self._begin()
        return self._continue()

    def close(self) -> list[ChatEvent]:
        """Ends the call at the closing marker."""
        return self._end() or _content(self._release() + self._closing)

    def cut(self) -> list[ChatEvent]:
        """Ends the call at the end of the output, without a closing marker.

        A call that lacks only the marker is complete; one that has begun gets no end.
        """
        events = self._end()
        if self._name is not None and not self._broken:
            return events
        return events or _content(self._release())

    def _begin(self) -> list[ChatEvent]:
        text = self._held[len(self._opening) :]
        head = _HEAD.match(text) if len(text) <= _MAX_HEAD else None
        if head is None:
            if text.lstrip()[:1] in ("", "{"):
                return []
            return self._break()
        name = _string(head[1])
        if not name:
            return self._break()
        self._name = name
        self._held = text[head.end() :]
        return [ToolCallStart(self._id, name), *self._continue()]

    def _continue(self) -> list[ChatEvent]:
        """More of the arguments, or text after them, which is held until the end."""
        num_taken = self._scanner.push(self._held)
        taken, self._held = self._held[:num_taken], self._held[num_taken:]
        self._arguments += taken
        events: list[ChatEvent] = [ToolCallArgumentsDelta(taken)] if taken else []
        if self._held and not self._scanner.complete:
            events += self._break()
        return events

    def _end(self) -> list[ChatEvent]:
        """The events of a call that is complete now, or none."""
        if self._broken:
            return []
        events: list[ChatEvent] = []
        if self._name is None:
            call = _read_call(self._id, self._held[len(self._opening) :])
            if call is None:
                return []
            events = [ToolCallStart(call.id, call.name), ToolCallArgumentsDelta(call.arguments)]
        # Whatever may follow the arguments in an object is ignored.
        elif self._scanner.complete and _object('{"": 0' + self._held) is not None:
            call = ToolCall(self._id, self._name, self._arguments)
        else:
            return []
        return [*events, ToolCallEnd(call)]

    def _break(self) -> list[ChatEvent]:
        self._broken = True
        return _content(self._release())

    def _release(self) -> str:
        held, self._held = self._held, ""
        return held


def _content(text: str) -> list[ChatEvent]:
    return [ContentDelta(text)] if text else []


def _string(text: str) -> str | None:
    """A JSON string's value, of whole characters; None if it is none."""
    try:
        value = json.loads(text)
        value.encode()
    except ValueError:
        return None
    return str(value)


def _object(text: str) -> dict[str, Any] | None:
    """A JSON object's value; None if it is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _read_call(call_id: str, text: str) -> ToolCall | None:
    """A call with its keys in any order; without arguments, these may be missing."""
    value = _object(text) or {}
    name, arguments = value.get("name"), value.get("arguments", {})
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return None
    try:
        written = json.dumps(arguments, ensure_ascii=False)
        (name + written).encode()  # an unpaired surrogate cannot be sent
        return ToolCall(call_id, name, written)
    except (ValueError, RecursionError, InvalidRequestError):
        return None
