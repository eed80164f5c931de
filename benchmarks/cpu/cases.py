"""The batches that every engine is timed with: cases, and the token ids of their prompts.

Standard library only: whoever repeats a measurement elsewhere can make the same prompts.
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
    new_tokens: int

    @property
    def name(self) -> str:
        """What is timed, and of how many tokens."""
        batch = f"{self.batch} x " if self.timed != "prefill" else ""
        return f"{self.timed} {batch}{self.prompt_tokens}"

    @property
    def num_prompt_tokens(self) -> int:
        """Of all prompts together."""
        return self.batch * self.prompt_tokens

    @property
    def kv_tokens(self) -> int:
        """Tokens of KV that it needs."""
        return self.num_prompt_tokens + self.batch * self.new_tokens

    @property
    def context_lengths(self) -> tuple[int, ...]:
        """Tokens that each sequence has half way through its decoding."""
        return (self.prompt_tokens + self.new_tokens // 2,) * self.batch

    @property
    def warm_up(self) -> "Case":
        """What every engine runs once before its turns.

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
        """Token ids, other ones each turn, so that no prefix cache helps."""
        draw = random.Random(f"{self.name} {turn}")
        return [
            [draw.randrange(vocab_size) for _ in range(self.prompt_tokens)]
            for _ in range(self.batch)
        ]


PREFILL = tuple(Case("prefill", 1, length, 1) for length in (128, 512))
# A step of a batch takes long enough that half as many give the same median.
DECODE = (Case("decode", 32, 128, 17), Case("decode", 8, 128, 17), Case("decode", 1, 128, 33))
THROUGHPUT = Case("throughput", 32, 16, 64)
QUICK_PREFILL = (Case("prefill", 1, 32, 1),)
QUICK_DECODE = tuple(Case("decode", batch, 16, 9) for batch in (4, 1))
QUICK_THROUGHPUT = Case("throughput", 4, 8, 8)
