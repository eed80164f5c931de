"""Offload: threads for conversions that would hold up the event loop, and turns between calls.

A call that converts a lot does it in steps. So it never has more than one thread, others get theirs
in between, and when its caller leaves, it ends with its piece. What cannot be cut, such as one long
text, has threads of its own, so that pieces never wait for it.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import ParamSpec, TypeVar

from tokenizer_service.text.daemon_thread_pool import DaemonThreadPool

# This many characters or token ids take about a millisecond; more are converted on a thread.
_MAX_INLINE = 2048
# Up to 50 ms for the costliest texts.
PIECE_SIZE = 64 * 1024
# The cost of a text or sequence beyond its length, in characters.
_COST_PER_PART = 32
# The tokenizer releases the interpreter's lock, so these use as many cores. Large conversions leave
# some to the others; they take up to a second each.
_NUM_THREADS = 4
_NUM_LARGE_THREADS = 2

P = ParamSpec("P")
R = TypeVar("R")


class Offload:
    """The threads of one service. Nothing starts before it is used."""

    def __init__(self) -> None:
        self._pieces = DaemonThreadPool(_NUM_THREADS, "convert")
        self._large = DaemonThreadPool(_NUM_LARGE_THREADS, "convert-large")

    async def run(self, size: int, convert: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The result of `convert`; on a thread if `size`, in characters or ids, is large.

        Cancelling this drops work that waits; once begun, it runs to its end.
        """
        if size <= _MAX_INLINE:
            return convert(*args, **kwargs)
        threads = self._pieces if size <= PIECE_SIZE else self._large
        return await threads.run(partial(convert, *args, **kwargs))

    async def run_steps(self, steps: Iterator[int]) -> None:
        """Runs a generator that yields the size of each step before it takes it.

        Steps are taken together as long as they are small together. Cancelling this ends the
        conversion after a piece.
        """
        size = next(steps, None)
        if size is not None and size <= _MAX_INLINE:
            size = _advance(steps, size, _MAX_INLINE)
        while size is not None:
            # Beside the first piece, even a small one takes its turn.
            threads = self._pieces if size <= PIECE_SIZE else self._large
            size = await threads.run(partial(_advance, steps, size, PIECE_SIZE))


def part_size(part: Sequence[object]) -> int:
    """The size of one of several texts or sequences."""
    return len(part) + _COST_PER_PART


def _advance(steps: Iterator[int], size: int, limit: int) -> int | None:
    """Takes a step of `size`, and as many more as the limit allows; the size of the next one."""
    done = 0
    following: int | None = size
    while following is not None and (done == 0 or done + following <= limit):
        done += max(1, following)
        following = next(steps, None)
    return following
