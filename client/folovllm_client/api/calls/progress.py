"""Progress: what has been received of a stream, so that it can go on after its connection breaks.

The client draws the seed and the request's id, so that a stream that broke before its first message
begins anew as the same one.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from google.protobuf.message import Message as ProtobufMessage

from folovllm.parameters.seeds import new_seed
from folovllm.request_id import new_request_id
from folovllm.v1 import tokenizer_service_pb2 as messages
from folovllm.v1 import types_pb2

Request: TypeAlias = messages.GenerateRequest | messages.ChatRequest
Message: TypeAlias = types_pb2.CompletionOutput | messages.ChatOutput
Reader: TypeAlias = Callable[[Any], Any]
"""Makes an answer of a message; None of one that belongs to the next."""
_Copied = TypeVar("_Copied", bound=ProtobufMessage)


@dataclass(slots=True)
class _Received:
    """What one index has sent."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    num_later_messages: int = 0
    ended: bool = False


class Progress:
    """One stream's, over all its calls."""

    def __init__(self, request: Request) -> None:
        """The request is copied, not changed."""
        self._request = _copy(request)
        self._request.request_id = request.request_id or new_request_id()
        if not request.sampling_params.HasField("seed"):
            self._request.sampling_params.seed = new_seed()
        self._resume: types_pb2.Resume | None = None
        self._reader: Reader | None = None
        self._outputs: dict[int, _Received] = {}
        self.num_read = 0
        """Messages that were received."""

    @property
    def has_begun(self) -> bool:
        """Whether any message was received."""
        return self.num_read > 0

    @property
    def can_go_on(self) -> bool:
        """Whether the request can be sent again; not to a server that does not know how to."""
        return not self.has_begun or self._resume is not None

    @property
    def is_complete(self) -> bool:
        """Whether everything was received."""
        return self._resume is not None and not self._resume_from(self._resume).outputs

    def first_request(self) -> Request:
        """What to send first."""
        return self._request

    def next_request(self) -> Request:
        """What to send after a call that broke; it replaces that call if the server has it yet."""
        request = _copy(self._request)
        if self._resume is None:
            request.resume.SetInParent()
        else:
            request.resume.CopyFrom(self._resume_from(self._resume))
        return request

    def reader(self, new_reader: Callable[[], Reader]) -> Reader:
        """What reads the messages of the next call, and takes note of them.

        What a reader holds until the next message is kept, but for a RequestInfo after which
        nothing has come: that is sent anew.
        """
        if not any(each.token_ids or each.ended for each in self._outputs.values()):
            self._reader = new_reader()
        read = self._reader
        assert read is not None

        def watch(message: Any) -> Any:
            self._add(message)
            return read(message)

        return watch

    def _add(self, message: Message) -> None:
        self.num_read += 1
        if message.HasField("info") and message.info.prompt_fingerprint:
            self._resume = types_pb2.Resume(
                sampling_params=message.info.sampling_params,
                numerics_fingerprint=message.info.numerics_fingerprint,
                prompt_fingerprint=message.info.prompt_fingerprint,
            )
        output = self._outputs.setdefault(message.index, _Received())
        if message.token_ids:
            output.token_ids.extend(message.token_ids)
            output.logprobs.extend(each.token.logprob for each in message.logprobs)
            output.num_later_messages = 0
        elif not message.HasField("info"):
            output.num_later_messages += 1
        output.ended = _is_last(message)

    def _resume_from(self, fields: types_pb2.Resume) -> types_pb2.Resume:
        resume = _copy(fields)
        for index in range(max(1, fields.sampling_params.n)):
            output = self._outputs.get(index) or _Received()
            if not output.ended:
                resume.outputs.add(
                    index=index,
                    token_ids=output.token_ids,
                    logprobs=output.logprobs,
                    num_later_messages=output.num_later_messages,
                )
        return resume


def _copy(message: _Copied) -> _Copied:
    copied = type(message)()
    copied.CopyFrom(message)
    return copied


def _is_last(message: Message) -> bool:
    if isinstance(message, types_pb2.CompletionOutput):
        return bool(message.finish_reason)
    return message.HasField("finish")
