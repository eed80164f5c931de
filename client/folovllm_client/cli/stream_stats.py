"""StreamStats: how fast a stream arrived, by its reader's clock."""

import time
from collections.abc import Callable

from folovllm.chat_outputs import ChatFinish, ChatOutput
from folovllm.outputs import CompletionOutput


class StreamStats:
    """Times one request from the moment this is made; `clock` returns seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self._first: float | None = None
        self._last = self._started
        self._first_tokens = 0
        self.num_tokens = 0
        self._finish_reasons: list[str] = []

    def observe(self, piece: CompletionOutput | ChatOutput) -> None:
        """Counts one piece of the stream, or one event of a chat."""
        if piece.token_ids:
            self._last = self._clock()
            if self._first is None:
                self._first = self._last
                self._first_tokens = len(piece.token_ids)
            self.num_tokens += len(piece.token_ids)
        reason: str | None = None
        if isinstance(piece, CompletionOutput):
            reason = piece.finish_reason
        elif isinstance(piece.event, ChatFinish):
            reason = piece.event.reason
        if reason is not None and reason not in self._finish_reasons:
            self._finish_reasons.append(reason)

    @property
    def time_to_first_token(self) -> float | None:
        """Seconds from the request to its first token; None before that."""
        return None if self._first is None else self._first - self._started

    @property
    def tokens_per_second(self) -> float | None:
        """Rate of the tokens after the first ones; None if there is nothing to measure."""
        if self._first is None or self._last <= self._first:
            return None
        return (self.num_tokens - self._first_tokens) / (self._last - self._first)

    def summary(self) -> str:
        """All of it on one line."""
        first, rate = self.time_to_first_token, self.tokens_per_second
        parts = [f"{self.num_tokens} {'token' if self.num_tokens == 1 else 'tokens'}"]
        if first is not None:
            parts.append(f"first after {first * 1e3:.0f} ms")
        if rate is not None:
            parts.append(f"{rate:.1f} tokens/s")
        return " · ".join([*parts, *self._finish_reasons])
