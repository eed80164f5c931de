"""BadWords: which ids would complete one of many words, by what the output ends with.

The words are kept backwards and sorted, without their last ids; each knows the longest other one
that it begins with. That is a trie, in as much memory as the words. What an output ends with is
found in it by bisection, and the words that it has begun are the one found and those it leads to.
"""

from bisect import bisect_right
from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf

_NONE = -1


class BadWords:
    """Never changes. A look-up takes time by the longest match, not by the number of words."""

    def __init__(self, words: Iterable[SequenceOf[int]]) -> None:
        """Each has at least one id."""
        lasts: dict[tuple[int, ...], list[int]] = {}
        for word in map(tuple, words):
            lasts.setdefault(word[-2::-1] if len(word) > 1 else (), []).append(word[-1])
        self._always = tuple(lasts.pop((), ()))
        self._begun = sorted(lasts)
        self._lasts = [tuple(lasts[begun]) for begun in self._begun]
        self._shorter = _longest_beginnings(self._begun)
        self._ends = frozenset(begun[0] for begun in self._begun)
        self.longest = max(map(len, self._begun), default=0)
        """Ids at the end of an output that can matter."""

    def completions(self, output: SequenceOf[int], added: SequenceOf[int] = ()) -> tuple[int, ...]:
        """The last id of each word whose other ids end `output`, with `added` behind it."""
        latest = added or output
        if not latest or latest[-1] not in self._ends:
            return self._always
        added = added[-self.longest :]
        output = output[max(0, len(output) + len(added) - self.longest) :]
        backwards = (*reversed(added), *reversed(output))
        index = bisect_right(self._begun, backwards) - 1
        if index == _NONE:
            return self._always
        # Whatever ends the output comes before it in this order, and what lies between begins with
        # that: so it is found here or among what this begins with.
        num_equal = _num_equal(self._begun[index], backwards)
        found = list(self._always)
        while index != _NONE:
            if len(self._begun[index]) <= num_equal:
                found += self._lasts[index]
            index = self._shorter[index]
        return tuple(found)


def _longest_beginnings(words: SequenceOf[tuple[int, ...]]) -> list[int]:
    """For each of the sorted words the index of the longest other that it begins with, or _NONE."""
    shorter: list[int] = []
    for index, word in enumerate(words):
        before = index - 1
        while before != _NONE and word[: len(words[before])] != words[before]:
            before = shorter[before]
        shorter.append(before)
    return shorter


def _num_equal(first: SequenceOf[int], second: SequenceOf[int]) -> int:
    """How many ids two sequences begin with in common."""
    pairs = enumerate(zip(first, second, strict=False))
    shorter = min(len(first), len(second))
    return next((count for count, (one, other) in pairs if one != other), shorter)
