"""What a skill produces: one exchange (or one plain text), before template and tokenizer.

A `Sample` is a value: the turns up to the one the model has to write, and what it should write.
`held_out` splits every kind of input by hash, so that training and evaluation never share one.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")
Message = dict[str, Any]
Tool = dict[str, Any]
Segment = tuple[str, bool]
"""A piece of text, and whether the model is trained to write it."""

HELD_OUT_SHARE = 10
"""One input in this many is kept for evaluation."""


@dataclass(frozen=True)
class Sample:
    """One training or evaluation example of a skill.

    Chat samples have `messages` and an `answer`; plain ones have `plain` segments instead.
    `thinking` says whether the template is rendered with thinking on; `reasoning` is then what
    stands in the think block. `expected` is what an evaluation compares with.
    """

    skill: str
    answer: str = ""
    messages: tuple[Message, ...] = ()
    tools: tuple[Tool, ...] = ()
    thinking: bool = False
    reasoning: str = ""
    plain: tuple[Segment, ...] = ()
    expected: Any = field(default=None)


@dataclass(frozen=True)
class Draw:
    """A seeded source of choices that stays on one side of the held-out split."""

    rng: random.Random
    held_out: bool = False

    def pick(self, options: Sequence[T]) -> T:
        """One of the options, all equally likely."""
        return self.rng.choice(options)

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self.rng.random() < probability

    def until(self, key: Callable[[T], str], make: Callable[[], T]) -> T:
        """Draw with `make` until the value's key lies on this side of the split."""
        while True:
            value = make()
            if is_held_out(key(value)) == self.held_out:
                return value


def is_held_out(key: str) -> bool:
    """Whether this input belongs to evaluation; stable across runs and machines."""
    return hashlib.sha256(key.encode()).digest()[0] % HELD_OUT_SHARE == 0


def user(text: str) -> Message:
    """A user turn."""
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    """An assistant turn of the past."""
    return {"role": "assistant", "content": text}


def chat(
    draw: Draw, skill: str, question: str, answer: str, reasoning: str, expected: Any = None
) -> Sample:
    """A one-question chat, with thinking on in half of all draws."""
    return Sample(
        skill=skill,
        messages=(user(question),),
        answer=answer,
        thinking=draw.chance(0.5),
        reasoning=reasoning,
        expected=expected,
    )


def plain(skill: str, prompt: str, continuation: str) -> Sample:
    """A text without template: the model learns the continuation and then stops."""
    return Sample(skill=skill, plain=((prompt, False), (continuation + "<|endoftext|>", True)))
