"""StreamStats: how fast a request was answered, by the engine's own times."""

from folovllm.chat_outputs import ChatFinish, ChatOutput
from folovllm.outputs import CompletionOutput, RequestMetrics

# A rate over less says more about the clock than about the engine.
_MIN_TOKENS = 16
_MIN_SECONDS = 0.05


class StreamStats:
    """The figures of one request. Those of the engine arrive with the end of each continuation."""

    def __init__(self) -> None:
        self._num_tokens = 0
        self._metrics: list[RequestMetrics] = []
        self._finish_reasons: dict[str, None] = {}  # each once, in their order

    def observe(self, piece: CompletionOutput | ChatOutput) -> None:
        """Counts one piece of the stream, or one event of a chat."""
        self._num_tokens += len(piece.token_ids)
        if isinstance(piece, CompletionOutput) and piece.finish_reason is not None:
            self._finish(piece.finish_reason, piece.metrics)
        elif isinstance(piece, ChatOutput) and isinstance(piece.event, ChatFinish):
            self._finish(piece.event.reason, piece.event.metrics)

    def summary(self) -> str:
        """One line: the tokens, the time to the first, the rate after it, the finish reasons."""
        parts = [f"{self._num_tokens:,} {'token' if self._num_tokens == 1 else 'tokens'}"]
        if self._metrics:
            first = min(metrics.time_to_first_token for metrics in self._metrics)
            parts.append(f"first after {_duration(first)}")
            decode = max(metrics.decode for metrics in self._metrics)
            if self._num_tokens >= _MIN_TOKENS and decode >= _MIN_SECONDS:
                # Each continuation's first token ended its prefill.
                rate = (self._num_tokens - len(self._metrics)) / decode
                parts.append(f"{rate:,.1f} tokens/s")
        return " · ".join([*parts, *self._finish_reasons])

    def _finish(self, reason: str, metrics: RequestMetrics | None) -> None:
        self._finish_reasons[reason] = None
        if metrics is not None:
            self._metrics.append(metrics)


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 10 else f"{seconds * 1e3:,.0f} ms"
