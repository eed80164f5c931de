"""Keeps long conversions from blocking the event loop; the tokenizer releases the lock in them."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import ParamSpec, TypeVar

# This many characters or token ids take about a millisecond; more are converted on a thread.
_MAX_INLINE = 2048
# The cost of a text or sequence beyond its length, in characters.
_COST_PER_PART = 32

P = ParamSpec("P")
R = TypeVar("R")


async def offload_if_large(
    size: int, convert: Callable[P, R], *args: P.args, **kwargs: P.kwargs
) -> R:
    """The result of `convert`, which runs on a thread if `size`, in characters or ids, is large."""
    if size <= _MAX_INLINE:
        return convert(*args, **kwargs)
    return await asyncio.to_thread(convert, *args, **kwargs)


def batch_size(parts: Iterable[Sequence[object]]) -> int:
    """The size of several texts or sequences for `offload_if_large`."""
    return sum(len(part) + _COST_PER_PART for part in parts)
