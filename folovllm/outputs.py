"""What a request returns: CompletionOutput and its parts, with their converters.

A CompletionOutput is a delta while it streams, and the whole continuation inside a RequestOutput.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from folovllm.logprobs import PositionLogprobs
from folovllm.message_fields import MessageFields
from folovllm.sampling_params import SamplingParams
from folovllm.v1 import types_pb2

if TYPE_CHECKING:
    from folovllm.v1.tokenizer_service_pb2 import ChatFinish


class FinishReason(StrEnum):
    """Why a continuation ended; compares equal to its plain word."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    DEADLINE = "deadline"


@dataclass(frozen=True, slots=True)
class Usage(MessageFields[types_pb2.Usage]):
    """Token counts of one continuation."""

    message_type = types_pb2.Usage

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class RequestMetrics(MessageFields[types_pb2.RequestMetrics]):
    """Where a continuation's time went, in seconds of the engine's clock."""

    message_type = types_pb2.RequestMetrics

    queue: float = 0.0
    prefill: float = 0.0
    decode: float = 0.0
    time_to_first_token: float = 0.0
    preemptions: int = 0

    @property
    def total(self) -> float:
        """From arrival to the end."""
        return self.queue + self.prefill + self.decode

    @classmethod
    def from_times(
        cls,
        *,
        arrival: float,
        first_scheduled: float | None,
        first_token: float | None,
        finish: float | None,
        preemptions: int = 0,
    ) -> "RequestMetrics":
        """From readings of one clock, in seconds; a phase that was never reached takes no time."""
        finish = finish or arrival
        first_scheduled = first_scheduled or finish
        first_token = first_token or finish
        return cls(
            queue=first_scheduled - arrival,
            prefill=first_token - first_scheduled,
            decode=finish - first_token,
            time_to_first_token=first_token - arrival,
            preemptions=preemptions,
        )


@dataclass(frozen=True, slots=True)
class RequestInfo(MessageFields[types_pb2.RequestInfo]):
    """What was resolved about a request; enough to repeat it exactly."""

    message_type = types_pb2.RequestInfo

    sampling_params: SamplingParams
    model_fingerprint: str = ""
    tokenizer_fingerprint: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    prompt_logprobs: tuple[PositionLogprobs, ...] = ()
    prompt_token_ids: tuple[int, ...] = ()
    parent_output_token_ids: tuple[int, ...] = ()
    numerics_fingerprint: str = ""
    prompt_fingerprint: str = ""

    def joined(self, more: "RequestInfo") -> "RequestInfo":
        """This one with the lists of the next message's, which has nothing else."""
        return replace(
            self,
            prompt_logprobs=self.prompt_logprobs + more.prompt_logprobs,
            prompt_token_ids=self.prompt_token_ids + more.prompt_token_ids,
            parent_output_token_ids=self.parent_output_token_ids + more.parent_output_token_ids,
        )


@dataclass(slots=True)
class CompletionOutput:
    """One of a request's n continuations, or a delta of one.

    stop_reason is the stop token's id or the stop string; it is None after the end-of-sequence
    token, and if output_complete says that a structured output is complete. usage and metrics come
    with finish_reason, info with the first delta of index 0 or of a branch. exact and num_moves,
    from a tokenizer service, say whether the final output is that of an undisturbed run, and how
    often it went on at another engine.
    """

    request_id: str = ""
    index: int = 0
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[PositionLogprobs] = field(default_factory=list)
    cumulative_logprob: float | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    output_complete: bool = False
    usage: Usage | None = None
    metrics: RequestMetrics | None = None
    info: RequestInfo | None = None
    exact: bool | None = None
    num_moves: int = 0

    def finished(self) -> bool:
        """Whether no more deltas of this continuation follow."""
        return self.finish_reason is not None

    def append(self, delta: "CompletionOutput") -> None:
        """Adds the next delta of the same continuation to this one."""
        assert delta.index == self.index and not self.finished()
        self.text += delta.text
        self.token_ids += delta.token_ids
        self.logprobs += delta.logprobs
        self.finish_reason = delta.finish_reason
        self.stop_reason = delta.stop_reason
        self.output_complete = delta.output_complete
        self.usage = delta.usage
        self.metrics = delta.metrics
        self.exact, self.num_moves = delta.exact, delta.num_moves
        if delta.cumulative_logprob is not None:
            self.cumulative_logprob = delta.cumulative_logprob
        if delta.info is not None:
            self.info = join_info(self.info, delta.info)

    def to_proto(self) -> types_pb2.CompletionOutput:
        """The message of the contract."""
        # Most messages are a few ids. Setting only what is there takes a third of the time.
        message = types_pb2.CompletionOutput()
        message.request_id = self.request_id
        message.index = self.index
        message.token_ids.extend(self.token_ids)
        if self.text:
            message.text = self.text
        if self.logprobs:
            message.logprobs.extend(position.to_proto() for position in self.logprobs)
        if self.cumulative_logprob is not None:
            message.cumulative_logprob = self.cumulative_logprob
        if self.finish_reason is not None:
            message.finish_reason = types_pb2.FinishReason.Value(
                f"FINISH_REASON_{self.finish_reason.name}"
            )
            may_be_eos = self.finish_reason is FinishReason.STOP
            set_stop_reason(message, self.stop_reason, self.output_complete, may_be_eos)
        if self.usage is not None:
            message.usage.CopyFrom(self.usage.to_proto())
        if self.metrics is not None:
            message.metrics.CopyFrom(self.metrics.to_proto())
        if self.info is not None:
            message.info.CopyFrom(self.info.to_proto())
        if self.exact is not None:
            message.exact = self.exact
            message.num_moves = self.num_moves
        return message

    @classmethod
    def from_proto(cls, message: types_pb2.CompletionOutput) -> "CompletionOutput":
        """Reads a message of the contract."""
        finish_reason = _finish_reason(message.finish_reason)
        stop_reason, output_complete = read_stop_reason(message) if finish_reason else (None, False)
        return cls(
            request_id=message.request_id,
            index=message.index,
            text=message.text,
            token_ids=list(message.token_ids),
            logprobs=[*map(PositionLogprobs.from_proto, message.logprobs)],
            cumulative_logprob=(
                message.cumulative_logprob if message.HasField("cumulative_logprob") else None
            ),
            finish_reason=finish_reason,
            stop_reason=stop_reason,
            output_complete=output_complete,
            usage=Usage.from_proto(message.usage) if message.HasField("usage") else None,
            metrics=RequestMetrics.from_proto(message.metrics)
            if message.HasField("metrics")
            else None,
            info=RequestInfo.from_proto(message.info) if message.HasField("info") else None,
            exact=message.exact if message.HasField("exact") else None,
            num_moves=message.num_moves,
        )


@dataclass(slots=True)
class RequestOutput:
    """All continuations of one request, joined from their deltas."""

    request_id: str = ""
    prompt: str | None = None
    prompt_token_ids: list[int] = field(default_factory=list)
    outputs: list[CompletionOutput] = field(default_factory=list)
    info: RequestInfo | None = None

    @property
    def finished(self) -> bool:
        """Whether every continuation has ended."""
        return bool(self.outputs) and all(output.finished() for output in self.outputs)

    @property
    def prompt_logprobs(self) -> list[PositionLogprobs | None] | None:
        """For each token of the prompt, None for the first; None if not asked for or not known."""
        if self.info is None or not self.info.prompt_logprobs:
            return None
        return [None, *self.info.prompt_logprobs[1:]]

    @property
    def num_cached_tokens(self) -> int | None:
        """Tokens of the prompt whose KV was cached; None until that is known."""
        return None if self.info is None else self.info.cached_tokens

    @property
    def metrics(self) -> RequestMetrics | None:
        """Those of the continuation that took longest; None until all have ended."""
        if not self.finished:
            return None
        known = [output.metrics for output in self.outputs if output.metrics is not None]
        return max(known, key=lambda metrics: metrics.total, default=None)

    def add(self, delta: CompletionOutput) -> None:
        """Adds a streamed delta to its continuation."""
        self.request_id = delta.request_id
        while len(self.outputs) <= delta.index:
            index = len(self.outputs)
            self.outputs.append(CompletionOutput(request_id=delta.request_id, index=index))
        output = self.outputs[delta.index]
        output.append(delta)
        if delta.info is not None and output.info is not None:
            self.info = output.info
            if self.info.prompt_token_ids:
                self.prompt_token_ids = list(self.info.prompt_token_ids)

    @classmethod
    def join(cls, deltas: Iterable[CompletionOutput]) -> "RequestOutput":
        """Joins a whole stream."""
        output = cls()
        for delta in deltas:
            output.add(delta)
        return output


def join_info(info: RequestInfo | None, more: RequestInfo) -> RequestInfo:
    """What a stream has told of its request, with what its next message tells."""
    return more if info is None else info.joined(more)


def _finish_reason(value: types_pb2.FinishReason.ValueType) -> FinishReason | None:
    if value == types_pb2.FINISH_REASON_UNSPECIFIED:
        return None
    return FinishReason[types_pb2.FinishReason.Name(value).removeprefix("FINISH_REASON_")]


def set_stop_reason(
    message: "types_pb2.CompletionOutput | ChatFinish",
    stop_reason: int | str | None,
    output_complete: bool,
    may_be_eos: bool,
) -> None:
    """Says in a final message what ended the output: without anything else, `eos` if it may be."""
    if isinstance(stop_reason, str):
        message.stop_string = stop_reason
    elif stop_reason is not None:
        message.stop_token_id = stop_reason
    elif output_complete:
        message.output_complete.SetInParent()
    elif may_be_eos:
        message.eos.SetInParent()


def read_stop_reason(
    message: "types_pb2.CompletionOutput | ChatFinish",
) -> tuple[int | str | None, bool]:
    """The stop_reason and output_complete of a message."""
    kind = message.WhichOneof("stop_reason")
    if kind in ("stop_token_id", "stop_string"):
        return getattr(message, kind), False
    return None, kind == "output_complete"
