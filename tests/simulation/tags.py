"""Tags: what tells the requests of a scenario from each other inside an engine."""

from collections.abc import Sequence

from engine_service.core.outputs import ScheduledSequence

_SIZE = 3

Tag = tuple[int, ...]
"""The last ids of a request's prompt."""


def tag_of_prompt(prompt: Sequence[int]) -> Tag:
    """Of the request with a prompt."""
    return tuple(prompt[-_SIZE:])


def tag_of(part: ScheduledSequence) -> Tag:
    """Of the request that a sequence belongs to; branches have that of their parent."""
    end = part.num_prompt_tokens
    return tuple(part.token_history[max(0, end - _SIZE) : end])


def last_id(part: ScheduledSequence) -> int:
    """The last of its tag."""
    return part.token_history[part.num_prompt_tokens - 1]
