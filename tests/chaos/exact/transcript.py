"""Transcript: what an answer says, whatever pieces it came in, and how two of them differ.

Nothing is rounded: log-probabilities are compared as bytes. Only what tells how the answer was made
is left out: times, cached tokens, and how often it moved.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from chaos.exact.stream import Received, parts
from folovllm.v1 import tokenizer_service_pb2 as messages
from folovllm.v1 import types_pb2

_DELTAS = ("reasoning_delta", "content_delta", "tool_call_arguments_delta")
_OF_ITS_MAKING = ("usage", "metrics", "exact", "num_moves")


@dataclass(slots=True)
class Continuation:
    """One index."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[bytes] = field(default_factory=list)
    events: list[tuple[str, Any]] = field(default_factory=list)
    """What was said; text that follows text of its kind is joined."""
    milestones: dict[int, Any] = field(default_factory=dict)
    """By the number of tokens: how long the text was with them, and the log-probabilities' sum."""
    end: bytes | None = None
    usage: tuple[int, ...] = ()
    exact: bool | None = None
    num_moves: int = 0

    def say(self, kind: str, what: Any) -> None:
        """Adds an event."""
        if isinstance(what, str) and self.events and self.events[-1][0] == kind:
            self.events[-1] = (kind, self.events[-1][1] + what)
        elif what != "":
            self.events.append((kind, what))


@dataclass(slots=True)
class Transcript:
    """All of a call that ended with OK."""

    continuations: dict[int, Continuation] = field(default_factory=dict)
    infos: dict[int, types_pb2.RequestInfo] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)
    """What is wrong by itself."""

    @property
    def seeds(self) -> dict[int, int]:
        """What each info says was drawn with."""
        return {index: info.sampling_params.seed for index, info in self.infos.items()}


def transcript(received: Received, num_indexes: int) -> Transcript:
    """Reads what has come."""
    read = Transcript()
    for message in received.messages:
        if isinstance(message, messages.GenerateResponse | messages.ChatResponse):
            read.infos[0] = message.info
        for part in parts(message):
            _add(read, part, received.name)
    if missing := {*range(num_indexes)} - {*read.continuations}:
        read.complaints.append(f"nothing came of index {sorted(missing)}")
    if extra := {*read.continuations} - {*range(num_indexes)}:
        read.complaints.append(f"there is no index {sorted(extra)}")
    for index, each in read.continuations.items():
        if each.end is None:
            read.complaints.append(f"index {index} has no end")
    for info in read.infos.values():
        info.ClearField("cached_tokens")
    return read


def differences(found: Transcript, expected: Transcript) -> Iterator[str]:
    """One line for each continuation that is not as it is undisturbed, and for what is wrong."""
    yield from found.complaints
    for index, info in expected.infos.items():
        if index not in found.infos:
            yield f"index {index} has no info"
        elif found.infos[index] != info:
            yield f"info of index {index}: {_unlike_field(found.infos[index], info)} differs"
    for index, other in expected.continuations.items():
        if index in found.continuations:
            for difference in _differences(found.continuations[index], other):
                yield f"index {index}: {difference}"


def _differences(found: Continuation, expected: Continuation) -> Iterator[str]:
    lists: tuple[tuple[str, Sequence[Any], Sequence[Any]], ...] = (
        ("token", found.token_ids, expected.token_ids),
        ("log-probability", found.logprobs, expected.logprobs),
        ("event", found.events, expected.events),
    )
    for name, ours, others in lists:
        if ours != others:
            yield f"{name} {_first_difference(ours, others)}"
            return
    for count in sorted({*found.milestones} & {*expected.milestones}):
        if found.milestones[count] != expected.milestones[count]:
            yield (
                f"after {count} tokens {found.milestones[count]}, not {expected.milestones[count]}"
            )
            return
    if found.end != expected.end:
        yield f"ended with {found.end!r}, not {expected.end!r}"
    if found.usage != expected.usage:
        yield f"usage is {found.usage}, not {expected.usage}"


def _first_difference(ours: Sequence[Any], others: Sequence[Any]) -> str:
    for place, (our, other) in enumerate(zip(ours, others, strict=False)):
        if our != other:
            return f"{place} is {_short(our)}, not {_short(other)}"
    return f"{len(others)} of {len(ours)} is missing or one too many: there are {len(others)}"


def _short(what: Any) -> str:
    text = repr(what)
    return text if len(text) < 120 else f"{text[:40]} … {text[-70:]}"


def _unlike_field(ours: types_pb2.RequestInfo, others: types_pb2.RequestInfo) -> str:
    names = [each.name for each in ours.DESCRIPTOR.fields]
    return ", ".join(name for name in names if getattr(ours, name) != getattr(others, name))


def _add(read: Transcript, part: Any, name: str) -> None:
    each = read.continuations.setdefault(part.index, Continuation())
    if getattr(part, "request_id", name) != name:
        read.complaints.append(f"a message is of {part.request_id}")
    if each.end is not None:
        read.complaints.append(f"index {part.index} went on after its end")
    if not isinstance(part, messages.ChatAnswer) and part.HasField("info"):
        if each.token_ids:
            read.complaints.append(f"info of index {part.index} came after its tokens")
        read.infos.setdefault(part.index, types_pb2.RequestInfo()).MergeFrom(part.info)
    each.token_ids += part.token_ids
    each.logprobs += [entry.SerializeToString(deterministic=True) for entry in part.logprobs]
    if isinstance(part, types_pb2.CompletionOutput):
        _add_text(each, part)
    elif isinstance(part, messages.ChatOutput):
        _add_event(each, part)
    else:
        each.say("message", part.message.SerializeToString(deterministic=True))
        _end(each, part.finish)


def _add_text(each: Continuation, part: types_pb2.CompletionOutput) -> None:
    each.say("text", part.text)
    total = part.cumulative_logprob if part.HasField("cumulative_logprob") else None
    length = len(each.events[0][1]) if each.events else 0
    if not part.finish_reason:  # the end brings the text that was held back
        each.milestones[len(each.token_ids)] = (length, total)
        return
    end = types_pb2.CompletionOutput()
    end.CopyFrom(part)
    for field_name in ("request_id", "index", "text", "token_ids", "logprobs", "info"):
        end.ClearField(field_name)
    _end(each, end)


def _add_event(each: Continuation, part: messages.ChatOutput) -> None:
    kind = part.WhichOneof("event")
    if kind in _DELTAS:
        each.say(kind, getattr(part, kind))
    elif kind == "finish":
        _end(each, part.finish)
    elif kind is not None:
        each.say(kind, getattr(part, kind).SerializeToString(deterministic=True))


def _end(each: Continuation, end: types_pb2.CompletionOutput | messages.ChatFinish) -> None:
    usage = end.usage
    each.usage = (usage.prompt_tokens, usage.completion_tokens, usage.reasoning_tokens)
    each.exact = end.exact if end.HasField("exact") else None
    each.num_moves = end.num_moves
    kept: Any = type(end)()
    kept.CopyFrom(end)
    for name in _OF_ITS_MAKING:
        kept.ClearField(name)
    each.end = kept.SerializeToString(deterministic=True)
