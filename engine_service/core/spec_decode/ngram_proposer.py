"""NgramProposer: proposes what followed the last occurrence of the same tokens.

Prompt lookup: A. Saxena, "Prompt Lookup Decoding", 2023. Text that is copied, such as code that is
edited or a document that is quoted, occurred before, so no second model has to guess it.
"""

from array import array
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

MIN_MATCH = 2
"""Tokens at the end that must have occurred before."""
MAX_MATCH = 4
"""Tokens at the end that are compared."""
MAX_ADDED = 4096
"""Tokens that one call takes in, so that a long prompt delays no step; it may need several."""
# Earlier occurrences of the last two tokens that are compared; those before them are ignored.
_MAX_OCCURRENCES = 16


class Proposal(NamedTuple):
    """Tokens that may follow, and how many before them have occurred before."""

    token_ids: list[int]
    num_matched: int


class NgramProposer:
    """Follows one sequence as it grows.

    It keeps the latest index of every pair of neighbours, and for every index the previous one with
    the same pair. So the cost of a token or a proposal does not grow with the sequence.
    """

    def __init__(self) -> None:
        self._latest: dict[tuple[int, int], int] = {}
        self._previous = array("I", [0])
        """By the index of a pair's second token; 0, which cannot be one, means none."""

    def propose(self, token_ids: Sequence[int], num_tokens: int) -> Proposal | None:
        """The `num_tokens` tokens that may follow; None if the end is not known to have occurred.

        `token_ids` is what it was at the last call, and perhaps more. The occurrence that matches
        most of the end, up to four tokens, counts, and of equals the latest. What followed it is
        assumed to repeat once it reaches the end.
        """
        self._add(token_ids)
        if len(self._previous) < len(token_ids):
            return None
        index, num_matched = self._best_match(token_ids)
        if not index:
            return None
        period = len(token_ids) - 1 - index
        proposed = [token_ids[index + 1 + i % period] for i in range(num_tokens)]
        return Proposal(proposed, num_matched)

    def _add(self, token_ids: Sequence[int]) -> None:
        first = len(self._previous)
        for index, pair in enumerate(pairwise(token_ids[first - 1 : first + MAX_ADDED]), first):
            self._previous.append(self._latest.get(pair, 0))
            self._latest[pair] = index

    def _best_match(self, token_ids: Sequence[int]) -> tuple[int, int]:
        """The last token's index in the best earlier occurrence, or 0, and how many match."""
        end = len(token_ids) - 1
        best, num_matched = 0, MIN_MATCH - 1
        index = self._previous[end]
        for _ in range(_MAX_OCCURRENCES):
            if not index or num_matched == MAX_MATCH:
                break
            matched = _num_matched(token_ids, index, end)
            if matched > num_matched:
                best, num_matched = index, matched
            index = self._previous[index]
        return best, num_matched


def _num_matched(token_ids: Sequence[int], index: int, end: int) -> int:
    """How many tokens up to `index` equal those up to `end`; the last two do."""
    matched = MIN_MATCH
    while matched < MAX_MATCH and index >= matched:
        if token_ids[index - matched] != token_ids[end - matched]:
            break
        matched += 1
    return matched
