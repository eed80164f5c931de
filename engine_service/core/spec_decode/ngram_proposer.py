"""NgramProposer: guesses what comes next by what came the last time after the same tokens.

Prompt lookup: A. Saxena, "Prompt Lookup Decoding", 2023. Text that is copied, such as code that is
edited or a document that is quoted, has been there before, so no second model has to guess it.
"""

from collections.abc import Sequence
from typing import NamedTuple

FEWEST_MATCHED = 2
"""Tokens of the end that must have been there before."""
MOST_MATCHED = 4
"""As many tokens of the end are looked at."""
# Earlier places of the last two tokens that are compared; those further back are passed over.
_MOST_PLACES = 16


class Proposal(NamedTuple):
    """Tokens that may follow, and how many before them have been there before."""

    token_ids: list[int]
    num_matched: int


class NgramProposer:
    """Follows one sequence as it grows.

    It keeps the latest place of every pair of neighbours, and for every place the one before with
    the same pair. So neither a new token nor a proposal costs more where the sequence is long.
    """

    def __init__(self) -> None:
        self._latest: dict[tuple[int, int], int] = {}
        self._before: list[int] = [0]
        """By the place of a pair's second token; 0, which cannot be one, where there is none."""

    def propose(self, token_ids: Sequence[int], most: int) -> Proposal | None:
        """What may follow, `most` tokens; None where the end has not been there before.

        `token_ids` is what it was at the last call, and perhaps more. The place counts where most
        of the end has been, up to four tokens, and of equals the latest. What followed there is
        taken to repeat itself where it reaches the end.
        """
        self._index(token_ids)
        place, num_matched = self._best_place(token_ids)
        if not place:
            return None
        period = len(token_ids) - 1 - place
        return Proposal([token_ids[place + 1 + i % period] for i in range(most)], num_matched)

    def _index(self, token_ids: Sequence[int]) -> None:
        for place in range(len(self._before), len(token_ids)):
            pair = token_ids[place - 1], token_ids[place]
            self._before.append(self._latest.get(pair, 0))
            self._latest[pair] = place

    def _best_place(self, token_ids: Sequence[int]) -> tuple[int, int]:
        """Where the last tokens have been before, by the last one's place, and how many of them."""
        end = len(token_ids) - 1
        best, num_matched = 0, FEWEST_MATCHED - 1
        place = self._before[end]
        for _ in range(_MOST_PLACES):
            if not place or num_matched == MOST_MATCHED:
                break
            matched = _num_matched(token_ids, place, end)
            if matched > num_matched:
                best, num_matched = place, matched
            place = self._before[place]
        return best, num_matched


def _num_matched(token_ids: Sequence[int], place: int, end: int) -> int:
    """How many tokens up to `place` equal those up to `end`; the last two do."""
    matched = FEWEST_MATCHED
    while matched < MOST_MATCHED and place >= matched:
        if token_ids[place - matched] != token_ids[end - matched]:
            break
        matched += 1
    return matched
