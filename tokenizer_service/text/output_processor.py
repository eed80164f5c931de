"""OutputProcessor: the engine's deltas of token ids become deltas of text and token ids.

At a stop string the text ends, the token ids end with the token that completed it, and the caller
is asked to abort that continuation at the engine. What the engine still sends for it is dropped,
except the usage and metrics of its final message, which the final message here takes over.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from folovllm.outputs import CompletionOutput, FinishReason
from folovllm.sampling_params import SamplingParams
from tokenizer_service.text.detokenizer import StoppingDetokenizer
from tokenizer_service.text.replayed import Replayed
from tokenizer_service.text.tokenizer import Tokenizer


class OutputProcessor:
    """All n continuations of one request.

    Each token id is returned once, with its own delta; its text is returned then or later. Each
    index has exactly one final output, and nothing after it.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        params: SamplingParams,
        preceding_token_ids: Sequence[int] = (),
    ) -> None:
        """`preceding_token_ids` are output that was returned before and is continued here: the text
        begins where theirs ends, with the whole of a character that they leave incomplete.
        """
        self._tokenizer = tokenizer
        self._params = params
        self._preceding_token_ids = preceding_token_ids
        self._continuations: dict[int, _Continuation] = {}

    def process(self, delta: CompletionOutput) -> tuple[CompletionOutput | None, bool]:
        """Takes the engine's next delta, of any index.

        Returns what to send, if anything, and whether a stop string has just ended the continuation
        while the engine still generates it.
        """
        continuation = self._continuation(delta.index)
        was_stopped = continuation.stop is not None
        output = continuation.process(delta)
        stops = continuation.stop is not None and not was_stopped and not continuation.finished
        return output, stops

    def text_of(self, index: int, token_ids: Sequence[int]) -> str | None:
        """The same for a delta that is not final, to which only its text has to be added.

        Most deltas are like that, and this takes a tenth of the time. Returns None, without any
        effect, if there are stop strings, so that the delta has to be processed.
        """
        if self._params.stop:
            return None
        return self._continuation(index).text_of(token_ids)

    def replay(
        self,
        index: int,
        visible_ids: Sequence[int],
        num_hidden: int = 0,
        logprobs: Iterable[float] = (),
    ) -> Replayed[CompletionOutput]:
        """Takes ids that were returned before, all so far; afterwards the rest follows from there.

        `num_hidden` of them, after the others, have no text: a stop token. `logprobs` are those of
        all of them, if they are asked for.
        """
        continuation = self._continuation(index)
        continuation.add_logprobs(logprobs)
        return continuation.replay(visible_ids, num_hidden)

    def end(self, final: CompletionOutput) -> list[CompletionOutput]:
        """The last output of an index that no engine continues, by a final delta without ids."""
        output, _ = self.process(final)
        return [] if output is None else [output]

    def _continuation(self, index: int) -> "_Continuation":
        continuation = self._continuations.get(index)
        if continuation is None:
            continuation = _Continuation(self._tokenizer, self._params, self._preceding_token_ids)
            self._continuations[index] = continuation
        return continuation


def visible_ids(delta: CompletionOutput, include_stop_token: bool) -> list[int]:
    """The ids of a delta that have text: a stop token is not part of it, unless asked for."""
    ends_with_stop_token = delta.finish_reason is FinishReason.STOP and not delta.output_complete
    if ends_with_stop_token and not include_stop_token:
        return delta.token_ids[:-1]
    return delta.token_ids


class _Continuation:
    """One of the n."""

    def __init__(
        self, tokenizer: Tokenizer, params: SamplingParams, preceding_token_ids: Sequence[int]
    ) -> None:
        self.finished = False
        self._include_stop_token = params.include_stop_str_in_output
        self._detokenizer = StoppingDetokenizer(tokenizer, params)
        self._detokenizer.skip(preceding_token_ids)
        self.text_of = self._detokenizer.push
        self._cumulative_logprob = 0.0

    @property
    def stop(self) -> str | None:
        """The stop string that ended it."""
        return self._detokenizer.stop

    def add_logprobs(self, logprobs: Iterable[float]) -> None:
        """Adds those of tokens that follow, one by one, as the engine does: so no bit differs."""
        for logprob in logprobs:
            self._cumulative_logprob += logprob

    def replay(self, visible_ids: Sequence[int], num_hidden: int) -> Replayed[CompletionOutput]:
        detokenizer = self._detokenizer
        detokenizer.push(visible_ids)
        if detokenizer.stop is None:
            detokenizer.num_tokens += num_hidden
        return Replayed((), detokenizer.stop, detokenizer.num_tokens)

    def process(self, delta: CompletionOutput) -> CompletionOutput | None:
        """What to send for a delta, if anything."""
        if self.finished:
            return None
        output = CompletionOutput(request_id=delta.request_id, index=delta.index)
        if self.stop is None:
            output = self._advance(delta)
        if delta.finished():
            self.finished = True
            _finish(output, delta, self.stop, self._detokenizer.num_tokens)
        is_empty = not (output.text or output.token_ids or output.finished() or output.info)
        return None if is_empty else output

    def _advance(self, delta: CompletionOutput) -> CompletionOutput:
        """The delta with its text, cut after the token that completed a stop string."""
        detokenizer, num_before = self._detokenizer, self._detokenizer.num_tokens
        visible = visible_ids(delta, self._include_stop_token)
        text = detokenizer.push(visible)
        if detokenizer.stop is None:
            detokenizer.num_tokens += len(delta.token_ids) - len(visible)
            text += detokenizer.flush() if delta.finished() else ""
        num_tokens = detokenizer.num_tokens - num_before
        output = CompletionOutput(
            request_id=delta.request_id,
            index=delta.index,
            text=text,
            token_ids=delta.token_ids[:num_tokens],
            logprobs=delta.logprobs[:num_tokens],
            cumulative_logprob=delta.cumulative_logprob,
            info=delta.info,
        )
        self.add_logprobs(position.token.logprob or 0.0 for position in output.logprobs)
        if num_tokens < len(delta.token_ids) and delta.cumulative_logprob is not None:
            output.cumulative_logprob = self._cumulative_logprob
        return output


def _finish(
    output: CompletionOutput, delta: CompletionOutput, stop: str | None, num_tokens: int
) -> None:
    """Makes `output` the final one, by the engine's final delta or by the stop string."""
    output.usage, output.metrics = delta.usage, delta.metrics
    output.exact, output.num_moves = delta.exact, delta.num_moves
    if stop is None:
        output.finish_reason, output.stop_reason = delta.finish_reason, delta.stop_reason
        output.output_complete = delta.output_complete
        return
    output.finish_reason, output.stop_reason = FinishReason.STOP, stop
    if delta.usage is not None:
        output.usage = replace(delta.usage, completion_tokens=num_tokens)
