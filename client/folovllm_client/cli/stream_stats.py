"""StreamStats: how fast a stream arrived, by its reader's clock."""

import time

from folovllm.chat_outputs import ChatFinish, ChatOutput
from folovllm.outputs import CompletionOutput


class StreamStats:
    """Times one request from the moment this is made."""

    def __init__(self) -> None:
        self._started = self._last = time.monotonic()
        self._first: float | None = None
        self._first_tokens = 0
        self._num_tokens = 0
        self._finish_reasons: dict[str, None] = {}  # each once, in their order

    def observe(self, piece: CompletionOutput | ChatOutput) -> None:
        """Counts one piece of the stream, or one event of a chat."""
        if piece.token_ids:
            self._last = time.monotonic()
            if self._first is None:
                self._first, self._first_tokens = self._last, len(piece.token_ids)
            self._num_tokens += len(piece.token_ids)
        if isinstance(piece, CompletionOutput) and piece.finish_reason is not None:
            self._finish_reasons[piece.finish_reason] = None
        elif isinstance(piece, ChatOutput) and isinstance(piece.event, ChatFinish):
            self._finish_reasons[piece.event.reason] = None

    def summary(self) -> str:
        """One line: the tokens, the time to the first, the rate after it, the finish reasons."""
        parts = [f"{self._num_tokens} {'token' if self._num_tokens == 1 else 'tokens'}"]
        if self._first is not None:
            parts.append(f"first after {(self._first - self._started) * 1e3:.0f} ms")
            if self._last > self._first:
                rate = (self._num_tokens - self._first_tokens) / (self._last - self._first)
                parts.append(f"{rate:.1f} tokens/s")
        return " · ".join([*parts, *self._finish_reasons])
