"""What this process knows of a running request: the text so far, and what its caller gets next."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from folovllm.outputs import CompletionOutput, RequestOutput
from folovllm.score import ContinuationScore
from folovllm.vllm_names import RequestOutputKind
from tokenizer_service.text.output_processor import OutputProcessor
from tokenizer_service.text.token_texts import add_token_texts
from tokenizer_service.text.tokenizer import Tokenizer


class RequestState(Protocol):
    """A request that runs, from the engine's side."""

    @property
    def finished(self) -> bool:
        """Whether the engine has sent everything."""

    def take(self, delta: CompletionOutput) -> bool:
        """Takes the engine's next delta; whether its continuation must be aborted there."""

    def report(self) -> RequestOutput | None:
        """What the caller gets, if anything, after one or more deltas."""


class GenerationState:
    """Of n continuations: deltas of ids in; texts out, in the form that the caller chose."""

    def __init__(
        self,
        result: RequestOutput,
        tokenizer: Tokenizer,
        processors: Sequence[OutputProcessor],
        output_kind: RequestOutputKind,
    ) -> None:
        """`processors` has one for each continuation; `result` gets their outputs."""
        self.result = result
        result.outputs = [
            CompletionOutput(request_id=result.request_id, index=index)
            for index in range(len(processors))
        ]
        self._tokenizer = tokenizer
        self._processors = processors
        self._output_kind = output_kind
        self._new: list[CompletionOutput] = []

    @property
    def finished(self) -> bool:
        """Whether all continuations have ended."""
        return self.result.finished

    def take(self, delta: CompletionOutput) -> bool:
        """True if a stop string has ended the continuation, which the engine still generates."""
        output, stops = self._processors[delta.index].process(delta)
        if output is not None:
            add_token_texts(output, self._tokenizer)
            self.result.add(output)
            self._new.append(output)
        return stops

    def report(self) -> RequestOutput | None:
        """A CUMULATIVE or DELTA output is the caller's own: later deltas do not change it."""
        new, self._new = self._new, []
        if self._output_kind is RequestOutputKind.FINAL_ONLY:
            return self.result if self.finished else None
        if not new:
            return None
        if self._output_kind is RequestOutputKind.DELTA:
            return replace(self.result, outputs=self._deltas(new))
        return replace(self.result, outputs=[_copy(output) for output in self.result.outputs])

    def _deltas(self, new: Sequence[CompletionOutput]) -> list[CompletionOutput]:
        """What is new of each continuation; empty for one that goes on, so that it counts."""
        deltas = {
            output.index: CompletionOutput(request_id=output.request_id, index=output.index)
            for output in self.result.outputs
            if not output.finished() or any(each.index == output.index for each in new)
        }
        for output in new:
            deltas[output.index].append(output)
        return list(deltas.values())


class ResumedState(GenerationState):
    """Of a request whose RequestInfo, which came with its first output, is in the result."""

    def take(self, delta: CompletionOutput) -> bool:
        """As GenerationState.take."""
        delta.info = None
        return super().take(delta)


class ScoreState:
    """Of given continuations: their scores, by index."""

    def __init__(self, num_continuations: int) -> None:
        self._num_continuations = num_continuations
        self._scores: dict[int, ContinuationScore] = {}

    @property
    def finished(self) -> bool:
        """Whether all are scored."""
        return len(self._scores) == self._num_continuations

    @property
    def scores(self) -> tuple[ContinuationScore, ...]:
        """In the order of the continuations."""
        return tuple(self._scores[index] for index in range(self._num_continuations))

    def take(self, delta: CompletionOutput) -> bool:
        """Each delta is the whole score of a continuation."""
        self._scores[delta.index] = ContinuationScore.from_logprobs(delta.logprobs)
        return False

    def report(self) -> None:
        """Scores are read when they are complete."""


def _copy(output: CompletionOutput) -> CompletionOutput:
    return replace(output, token_ids=[*output.token_ids], logprobs=[*output.logprobs])
