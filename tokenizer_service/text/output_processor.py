"""OutputProcessor: the engine's deltas of token ids become deltas of text and token ids.

When a stop string is met, the text ends there, the token ids end with the token that completed it,
and the caller is told to abort that continuation at the engine. What the engine still sends for it
is swallowed, up to its final message, whose usage and metrics the final message here takes over.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from folovllm.outputs import CompletionOutput, FinishReason
from folovllm.sampling_params import SamplingParams
from tokenizer_service.text.stopping_detokenizer import StoppingDetokenizer
from tokenizer_service.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class ProcessedOutput:
    """What one delta of the engine led to."""

    outputs: list[CompletionOutput] = field(default_factory=list)
    """To send, in order."""
    stopped_index: int | None = None
    """The continuation to abort at the engine, since a stop string ended it."""


class OutputProcessor:
    """All n continuations of one request.

    Each token id is given out once, with its own delta; its text comes with it or later. Exactly
    one final output for each index comes out, after it none.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        params: SamplingParams,
        preceding_token_ids: Sequence[int] = (),
    ) -> None:
        """`preceding_token_ids` are output that was given out before, which these go on with: text
        begins where theirs ends, with a character that they leave open as a whole.
        """
        self._tokenizer = tokenizer
        self._params = params
        self._preceding_token_ids = preceding_token_ids
        self._continuations: dict[int, _Continuation] = {}

    @property
    def finished(self) -> bool:
        """Whether the final output of every index has come out."""
        continuations = self._continuations.values()
        return len(continuations) == self._params.n and all(c.finished for c in continuations)

    def process(self, delta: CompletionOutput) -> ProcessedOutput:
        """Takes the engine's next delta, of any index."""
        continuation = self._continuation(delta.index)
        was_stopped = continuation.stop is not None
        output = continuation.process(delta)
        to_abort = continuation.stop is not None and not was_stopped and not continuation.finished
        return ProcessedOutput(
            [] if output is None else [output], delta.index if to_abort else None
        )

    def text_of(self, index: int, token_ids: Sequence[int]) -> str | None:
        """The same for a delta that is not final, where nothing but its text is added.

        Most deltas are such, and this takes a tenth of the time. None, with nothing done, where
        stop strings are watched for, so that the delta has to be processed.
        """
        if self._params.stop:
            return None
        return self._continuation(index).text_of(token_ids)

    def _continuation(self, index: int) -> "_Continuation":
        continuation = self._continuations.get(index)
        if continuation is None:
            continuation = _Continuation(self._tokenizer, self._params, self._preceding_token_ids)
            self._continuations[index] = continuation
        return continuation


class _Continuation:
    """One of the n."""

    def __init__(
        self, tokenizer: Tokenizer, params: SamplingParams, preceding_token_ids: Sequence[int]
    ) -> None:
        self.finished = False
        self._include_stop_token = params.include_stop_str_in_output
        self._detokenizer = StoppingDetokenizer(tokenizer, params)
        self._detokenizer.skip(preceding_token_ids)

    @property
    def stop(self) -> str | None:
        """The stop string that ended it."""
        return self._detokenizer.stop

    def text_of(self, token_ids: Sequence[int]) -> str:
        """The text of ids that are not the last ones."""
        return self._detokenizer.push(token_ids)

    def process(self, delta: CompletionOutput) -> CompletionOutput | None:
        """What to send for a delta, if anything."""
        if self.finished:
            return None
        output = CompletionOutput(request_id=delta.request_id, index=delta.index)
        if self.stop is None:
            output = self._advance(delta)
        if delta.finished:
            self.finished = True
            _finish(output, delta, self.stop, self._detokenizer.num_tokens)
        has_news = output.text or output.token_ids or output.finished or output.info is not None
        return output if has_news else None

    def _advance(self, delta: CompletionOutput) -> CompletionOutput:
        """The delta with its text, cut after the token that completed a stop string."""
        detokenizer, num_before = self._detokenizer, self._detokenizer.num_tokens
        num_with_text = len(delta.token_ids)
        stop_token = delta.finish_reason is FinishReason.STOP and not delta.output_complete
        if stop_token and not self._include_stop_token:
            num_with_text = max(0, num_with_text - 1)  # like a stop string, not part of the text
        text = detokenizer.push(delta.token_ids[:num_with_text])
        if detokenizer.stop is None:
            detokenizer.push_without_text(len(delta.token_ids) - num_with_text)
            text += detokenizer.flush() if delta.finished else ""
        num_tokens = detokenizer.num_tokens - num_before
        return replace(
            delta,
            text=text,
            token_ids=delta.token_ids[:num_tokens],
            logprobs=delta.logprobs[:num_tokens],
            cumulative_logprob=_cumulative_logprob(delta, num_tokens),
            finish_reason=None,
            stop_reason=None,
            output_complete=False,
            usage=None,
            metrics=None,
        )


def _finish(
    output: CompletionOutput, delta: CompletionOutput, stop: str | None, num_tokens: int
) -> None:
    """Makes `output` the final one, by the engine's final delta or by the stop string."""
    output.usage, output.metrics = delta.usage, delta.metrics
    if stop is None:
        output.finish_reason, output.stop_reason = delta.finish_reason, delta.stop_reason
        output.output_complete = delta.output_complete
        return
    output.finish_reason, output.stop_reason = FinishReason.STOP, stop
    if delta.usage is not None:
        output.usage = replace(delta.usage, completion_tokens=num_tokens)


def _cumulative_logprob(delta: CompletionOutput, num_tokens: int) -> float | None:
    """The sum after the first `num_tokens` of a delta's tokens."""
    if delta.cumulative_logprob is None:
        return None
    dropped = delta.logprobs[num_tokens:]
    return delta.cumulative_logprob - sum(position.token.logprob or 0.0 for position in dropped)
