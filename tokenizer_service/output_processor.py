"""OutputProcessor: the engine's deltas of token ids become deltas of text and token ids.

When a stop string is met, the text ends there, the token ids end with the token that completed it,
and the caller is told to abort that continuation at the engine. What the engine still sends for it
is swallowed, up to its final message, whose usage and metrics the final message here takes over.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from folovllm.outputs import CompletionOutput, FinishReason
from folovllm.sampling_params import SamplingParams
from tokenizer_service.detokenizer import Detokenizer
from tokenizer_service.stop_strings import StopStrings
from tokenizer_service.tokenizer import Tokenizer


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
        continuation = self._continuations.get(delta.index)
        if continuation is None:
            continuation = _Continuation(self._tokenizer, self._params, self._preceding_token_ids)
            self._continuations[delta.index] = continuation
        was_stopped = continuation.stop is not None
        output = continuation.process(delta)
        to_abort = continuation.stop is not None and not was_stopped and not continuation.finished
        return ProcessedOutput(
            [] if output is None else [output], delta.index if to_abort else None
        )


class _Continuation:
    """One of the n."""

    def __init__(
        self, tokenizer: Tokenizer, params: SamplingParams, preceding_token_ids: Sequence[int]
    ) -> None:
        self.finished = False
        self.stop: str | None = None
        """The stop string that ended it."""
        self._params = params
        self._detokenizer = Detokenizer(tokenizer, params.skip_special_tokens)
        self._detokenizer.skip(preceding_token_ids)
        self._stop_strings = (
            StopStrings(params.stop, params.include_stop_str_in_output) if params.stop else None
        )
        self._num_tokens = 0
        """Token ids given out."""

    def process(self, delta: CompletionOutput) -> CompletionOutput | None:
        """What to send for a delta, if anything."""
        if self.finished:
            return None
        output = CompletionOutput(request_id=delta.request_id, index=delta.index)
        if self.stop is None:
            output = self._advance(delta)
        if delta.finished:
            self.finished = True
            _finish(output, delta, self.stop, self._num_tokens)
        has_news = output.text or output.token_ids or output.finished or output.info is not None
        return output if has_news else None

    def _advance(self, delta: CompletionOutput) -> CompletionOutput:
        """The delta with its text, cut after the token that completed a stop string."""
        num_with_text = len(delta.token_ids)
        stop_token = delta.finish_reason is FinishReason.STOP and not delta.output_complete
        if stop_token and not self._params.include_stop_str_in_output:
            num_with_text -= 1  # like a stop string, it is not part of the text
        text, num_tokens = self._text_of(delta.token_ids[: max(0, num_with_text)])
        if self.stop is None:
            self._num_tokens += len(delta.token_ids) - num_tokens
            num_tokens = len(delta.token_ids)
            text += self._rest() if delta.finished else ""
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

    def _text_of(self, token_ids: list[int]) -> tuple[str, int]:
        """The text that may go out, and how many of the ids it took.

        A match of a stop string counts when the token that completes it comes after the first
        min_tokens tokens; it may begin in the text of those.
        """
        if self._stop_strings is None:
            self._num_tokens += len(token_ids)
            return self._detokenizer.push(token_ids), len(token_ids)
        text = ""
        for i, token_id in enumerate(token_ids):
            self._num_tokens += 1
            text += self._watch(self._detokenizer.push([token_id]))
            if self.stop is not None:
                return text, i + 1
        return text, len(token_ids)

    def _rest(self) -> str:
        """All text that is still held, when no more tokens follow."""
        rest = self._detokenizer.flush()
        if self._stop_strings is None:
            return rest
        text = self._watch(rest)
        return text if self.stop is not None else text + self._stop_strings.flush()

    def _watch(self, text: str) -> str:
        """Hands text to the stop strings and keeps the match, if there is one."""
        assert self._stop_strings is not None
        may_stop = self._num_tokens > self._params.min_tokens
        certain, self.stop = self._stop_strings.push(text, may_stop)
        return certain


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
