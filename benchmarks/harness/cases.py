"""Case: a batch of prompts that engines are timed with.

Standard library only: anyone who repeats a measurement elsewhere can make the same prompts.
"""

import random
from dataclasses import dataclass, replace
from typing import Literal

from benchmarks.harness.batch_clock import Timing

_WARM_UP_PROMPT_TOKENS, _WARM_UP_NEW_TOKENS = 16, 3


@dataclass(frozen=True, slots=True)
class Case:
    """Requests that arrive together, each with its own random prompt and the same output length.

    What is timed is the prefill, the decoding of all together, or the throughput: all new tokens
    over the time of both.
    """

    timed: Literal["prefill", "decode", "throughput"]
    batch: int
    prompt_tokens: int
    new_tokens: int = 1
    same_prompt: bool = False
    """All have one prompt, so that a prefix cache spares the time to compute long ones."""

    @property
    def name(self) -> str:
        """What is timed, and of how many tokens."""
        single = self.timed == "prefill" and self.batch == 1
        return f"{self.timed} {'' if single else f'{self.batch} x '}{self.prompt_tokens}"

    @property
    def num_prompt_tokens(self) -> int:
        """Of all prompts together."""
        return self.batch * self.prompt_tokens

    @property
    def context_lengths(self) -> tuple[int, ...]:
        """Tokens that each sequence has half way through its decoding."""
        return (self.prompt_tokens + self.new_tokens // 2,) * self.batch

    @property
    def warm_up(self) -> "Case":
        """What an engine runs once before its turns.

        A decode step looks alike after a short prompt; a prefill's shape is its whole prompt.
        """
        if self.timed == "prefill":
            return self
        return replace(
            self,
            prompt_tokens=min(self.prompt_tokens, _WARM_UP_PROMPT_TOKENS),
            new_tokens=min(self.new_tokens, _WARM_UP_NEW_TOKENS),
        )

    def rate(self, timing: Timing) -> float:
        """Tokens a second of what is timed."""
        if self.timed == "prefill":
            return self.num_prompt_tokens / timing.prefill_s
        if self.timed == "decode":
            return timing.decode_rate
        return self.batch * self.new_tokens / timing.total_s

    def prompts(self, turn: int, vocab_size: int) -> list[list[int]]:
        """Token ids, different in each turn, so that no prefix cache helps."""
        draw = random.Random(f"{self.name} {turn}")
        prompts = [
            [draw.randrange(vocab_size) for _ in range(self.prompt_tokens)]
            for _ in range(1 if self.same_prompt else self.batch)
        ]
        return prompts * self.batch if self.same_prompt else prompts
