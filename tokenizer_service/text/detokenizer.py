"""Detokenizer: token ids to text while they arrive, never half a character.

A token of a byte-level tokenizer is bytes, and the text of a sequence is the decode of its bytes.
Other decoders look at neighbouring tokens, which takes a window of the latest ids.
"""

import codecs
from collections.abc import Sequence
from itertools import islice
from typing import Protocol

from tokenizer_service.text.tokenizer import Tokenizer
from tokenizer_service.text.window_detokenizer import WindowDetokenizer

# Of a UTF-8 character of at most 4 bytes at most 3 wait for the rest.
_MOST_OPEN = 3

_new_utf8_decoder = codecs.getincrementaldecoder("utf-8")


class Detokenizer(Protocol):
    """The text of one growing sequence of token ids. Ids that have no text bring none."""

    def skip(self, token_ids: Sequence[int]) -> None:
        """Takes ids before any others, whose text is out but for a character that they leave open.

        That character comes whole with the ids that follow.
        """

    def push(self, token_ids: Sequence[int]) -> str:
        """Takes the next ids and returns the text that is certain now; it may be empty."""

    def flush(self) -> str:
        """The text that is still held, when no more ids follow. What is pushed next starts anew."""


def new_detokenizer(tokenizer: Tokenizer, skip_special_tokens: bool = True) -> Detokenizer:
    """The detokenizer for a sequence of a tokenizer's ids."""
    if tokenizer.token_bytes is None:
        return WindowDetokenizer(tokenizer, skip_special_tokens)
    hidden = tokenizer.special_ids if skip_special_tokens else frozenset()
    return ByteDetokenizer(tokenizer.token_bytes, hidden)


class ByteDetokenizer:
    """A detokenizer for ids that stand for bytes: exactly the decode of all bytes as a whole.

    `token_bytes` has the bytes of each id; ids above it, and those in `hidden`, have no text.
    """

    def __init__(self, token_bytes: Sequence[bytes], hidden: frozenset[int] = frozenset()) -> None:
        self._token_bytes = token_bytes
        self._hidden = hidden
        self._decoder = _new_utf8_decoder(errors="replace")

    def skip(self, token_ids: Sequence[int]) -> None:
        """See Detokenizer."""
        # The first byte of a character continues none, so the latest bytes tell what is open.
        latest = (data for i in reversed(token_ids) if (data := self._bytes_of([i])))
        self._decoder.decode(b"".join([*islice(latest, _MOST_OPEN)][::-1]))

    def push(self, token_ids: Sequence[int]) -> str:
        """See Detokenizer."""
        return self._decoder.decode(self._bytes_of(token_ids))

    def flush(self) -> str:
        """See Detokenizer."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text

    def _bytes_of(self, token_ids: Sequence[int]) -> bytes:
        table, hidden = self._token_bytes, self._hidden
        size = len(table)
        return b"".join([table[i] for i in token_ids if i < size and i not in hidden])
