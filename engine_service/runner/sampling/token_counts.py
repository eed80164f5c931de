"""TokenCounts: which ids a sequence has and how often, kept from step to step for penalties."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine_service.core.outputs import ScheduledSequence

Ids = NDArray[np.int32]


def counts_of(sequence: ScheduledSequence) -> "TokenCounts":
    """Those of all tokens before the one that is drawn; continues what the sequence has kept."""
    state = sequence.runner_state
    counts = None if state is None else state.token_counts
    if not isinstance(counts, TokenCounts):
        counts = TokenCounts(sequence.num_prompt_tokens)
        if state is not None:
            state.token_counts = counts
    assert counts.num_prompt_tokens == sequence.num_prompt_tokens
    counts.update(sequence.token_history)
    if sequence.assumed_token_ids:
        counts = counts.fork()
        counts.assume(sequence.assumed_token_ids)
    return counts


class TokenCounts:
    """Of one sequence; looks at each of its tokens once.

    Takes memory by the distinct ids. Those of the prompt are shared with the sequences that fork.
    """

    def __init__(self, num_prompt_tokens: int) -> None:
        """Only the tokens after so many are output."""
        self.num_prompt_tokens = num_prompt_tokens
        self._num_counted = 0  # tokens of the output
        self._ids, self._counts = _Growing(), _Growing()  # of the output, by first occurrence
        self._prompt = _PromptIds()
        # Of `_ids`, the first `_num_compared` are compared with the prompt's.
        self._new_ids, self._num_compared = _Growing(), 0

    def fork(self) -> "TokenCounts":
        """One that counts on from the same tokens."""
        forked = TokenCounts(self.num_prompt_tokens)
        forked._num_counted = self._num_counted
        forked._ids, forked._counts = self._ids.copy(), self._counts.copy()
        forked._prompt = self._prompt
        forked._new_ids, forked._num_compared = self._new_ids.copy(), self._num_compared
        return forked

    def update(self, history: Sequence[int]) -> None:
        """Counts the tokens that have come since the last call; `history` has all of them."""
        new = history[self.num_prompt_tokens + self._num_counted :]
        if self._num_counted:
            self.assume(new)
        elif len(new):
            self._num_counted = len(new)
            ids, counts = np.unique(np.array(new, dtype=np.int32), return_counts=True)
            self._ids.extend(ids)
            self._counts.extend(counts.astype(np.int32))

    def assume(self, token_ids: Sequence[int]) -> None:
        """Counts tokens that follow."""
        self._num_counted += len(token_ids)
        for token_id in token_ids:
            found = np.flatnonzero(self._ids.values == token_id)
            if len(found):
                self._counts.values[found[0]] += 1
            else:
                self._ids.extend([token_id])
                self._counts.extend([1])

    def output(self) -> tuple[Ids, Ids]:
        """The distinct ids of the output, and how often each occurs."""
        return self._ids.values, self._counts.values

    def seen(self, history: Sequence[int]) -> tuple[Ids, Ids]:
        """The distinct ids of the prompt, and those that only the output has."""
        prompt_ids = self._prompt.of(history, self.num_prompt_tokens)
        ids = self._ids.values[self._num_compared :]
        self._num_compared += len(ids)
        if len(ids):
            self._new_ids.extend(ids[~_among(ids, prompt_ids)])
        return prompt_ids, self._new_ids.values


class _PromptIds:
    """The distinct ids of a prompt, sorted; found when they are asked for the first time."""

    def __init__(self) -> None:
        self._ids: Ids | None = None

    def of(self, history: Sequence[int], num_prompt_tokens: int) -> Ids:
        """Those of the first tokens, which are always the same."""
        if self._ids is None:
            self._ids = np.unique(np.array(history[:num_prompt_tokens], dtype=np.int32))
        return self._ids


class _Growing:
    """An array that is appended to, int32."""

    def __init__(self) -> None:
        self._array = np.empty(0, dtype=np.int32)
        self._length = 0

    @property
    def values(self) -> Ids:
        """What is in it; may be written to."""
        return self._array[: self._length]

    def extend(self, values: Sequence[int] | Ids) -> None:
        length = self._length + len(values)
        if length > len(self._array):
            # Half as much again, so that each value is copied only a few times.
            array = np.empty(length + length // 2, dtype=np.int32)
            array[: self._length] = self.values
            self._array = array
        self._array[self._length : length] = values
        self._length = length

    def copy(self) -> "_Growing":
        copied = _Growing()
        copied._array, copied._length = self.values.copy(), self._length
        return copied


def _among(ids: Ids, known: Ids) -> NDArray[np.bool_]:
    """Whether each is among the `known` ones, which are sorted."""
    if not len(known):
        return np.zeros(len(ids), dtype=np.bool_)
    found = np.searchsorted(known, ids)
    return np.asarray(known[np.minimum(found, len(known) - 1)] == ids)
