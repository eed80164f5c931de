"""The corpus: an endless, seeded stream of samples, each skill with its share."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace

from tools.demo_model.sample import Draw, Sample, assistant
from tools.demo_model.skills import (
    arithmetic,
    facts,
    greetings,
    records,
    stories,
    tool_calls,
    words,
)
from tools.demo_model.tables import SYSTEM_PROMPTS

Skill = Callable[[Draw], Sample]
SHARES: tuple[tuple[Skill, float], ...] = (
    (arithmetic.arithmetic, 25.0),
    (arithmetic.plain_sums, 4.0),
    (facts.capital, 7.0),
    (facts.fact, 5.0),
    (facts.unknown, 4.0),
    (greetings.greeting, 3.0),
    (greetings.identity, 3.0),
    (greetings.world, 3.0),
    (words.counting, 3.0),
    (words.spelling, 4.0),
    (words.repeating, 9.0),
    (stories.story, 7.0),
    (records.record, 14.0),
    (tool_calls.tool_use, 11.0),
)


_BEFORE: tuple[Skill, ...] = (
    greetings.greeting,
    greetings.identity,
    facts.capital,
    facts.fact,
    words.spelling,
)
"""Skills whose exchanges may stand before a question."""


def samples(seed: int) -> Iterator[Sample]:
    """Training samples without end; the same seed gives the same stream."""
    draw = Draw(random.Random(seed))
    skills = [skill for skill, _ in SHARES]
    weights = [share for _, share in SHARES]
    while True:
        for skill in draw.rng.choices(skills, weights, k=1000):
            yield in_context(draw, skill(draw))


def in_context(draw: Draw, sample: Sample) -> Sample:
    """The sample, now and then after an earlier exchange, or under a system prompt."""
    messages = sample.messages
    if not messages or messages[0]["role"] == "system":
        return sample
    if not sample.tools and draw.chance(0.12):
        before = draw.pick(_BEFORE)(draw)
        messages = (*before.messages, assistant(before.answer), *messages)
        messages = messages if before.messages else sample.messages
    if draw.chance(0.12):
        messages = ({"role": "system", "content": draw.pick(SYSTEM_PROMPTS)}, *messages)
    return replace(sample, messages=messages)
