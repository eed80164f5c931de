"""ChatMarkers: the token ids that delimit an answer's sections, and what a prompt has begun."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from tokenizer_service.text.tokenizer import Tokenizer


class ThinkingState(Enum):
    """Whether a prompt has begun the reasoning of the answer that follows."""

    MAY_BEGIN = auto()
    """It has not: the answer begins it, or has none."""
    OPEN = auto()
    """It has."""
    OVER = auto()
    """It has ended it too."""


@dataclass(frozen=True, slots=True)
class ChatMarkers:
    """Qwen3's markers; None if the tokenizer has no single token for one."""

    turn_start: int | None = None
    think_start: int | None = None
    think_end: int | None = None
    tool_call_start: int | None = None
    tool_call_end: int | None = None

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "ChatMarkers":
        """Those of a tokenizer."""
        texts = ("<|im_start|>", "<think>", "</think>", "<tool_call>", "</tool_call>")
        return cls(*map(tokenizer.added_token_id, texts))

    @property
    def has_thinking(self) -> bool:
        """Whether reasoning can be distinguished from content."""
        return self.think_start is not None and self.think_end is not None

    @property
    def has_tool_calls(self) -> bool:
        """Whether tool calls can be distinguished from content."""
        return self.tool_call_start is not None and self.tool_call_end is not None

    def thinking_state(self, prompt_token_ids: Sequence[int]) -> ThinkingState:
        """The state after the last turn of a prompt; earlier turns do not matter."""
        if not self.has_thinking:
            return ThinkingState.OVER
        for token_id in reversed(prompt_token_ids):
            if token_id == self.think_end:
                return ThinkingState.OVER
            if token_id == self.think_start:
                return ThinkingState.OPEN
            if token_id == self.turn_start:
                break
        return ThinkingState.MAY_BEGIN
