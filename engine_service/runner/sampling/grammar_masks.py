"""GrammarMasks: which ids the grammars of a step's sequences allow, as one mask."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine_service.core.outputs import ScheduledSequence
from engine_service.structured_output.bitmask_filler import BitmaskFiller
from engine_service.structured_output.matcher import Matcher


class GrammarMasks:
    """Fills masks of a vocabulary, on threads that start with the first grammar."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._filler: BitmaskFiller | None = None

    def fill(self, sequences: Sequence[ScheduledSequence]) -> dict[int, Tensor]:
        """For each row whose sequence follows a grammar, which ids may be drawn: bool [vocab_size].

        On the CPU. A grammar that cannot be followed any further allows all ids, since `advance`
        ends its sequence then, whatever was drawn.
        """
        words = self.fill_words(sequences)
        return {row: as_mask(own, self._vocab_size) for row, own in words.items()}

    def fill_words(self, sequences: Sequence[ScheduledSequence]) -> dict[int, NDArray[np.int32]]:
        """The same, a bit for each id: int32 [ceil(vocab_size / 32)], the lowest bit first."""
        rows = {row: s.matcher for row, s in enumerate(sequences) if s.matcher is not None}
        if not rows:
            return {}
        self._filler = self._filler or BitmaskFiller()
        # Several draws after one position follow the same matcher, which is asked only once.
        matchers = list(dict.fromkeys(rows.values()))
        words = np.empty((len(matchers), -(-self._vocab_size // 32)), dtype=np.int32)
        known = [matcher for matcher in matchers if isinstance(matcher, Matcher)]
        assert len(known) == len(matchers)
        for i in self._filler.fill_bitmasks(known, words):
            words[i] = -1
        filled = dict(zip(matchers, words, strict=True))
        return {row: filled[matcher] for row, matcher in rows.items()}


def as_mask(words: NDArray[np.int32], vocab_size: int) -> Tensor:
    """One row of bits as bool [vocab_size]."""
    bits = np.unpackbits(words.view(np.uint8), count=vocab_size, bitorder="little")
    return torch.from_numpy(bits).bool()
