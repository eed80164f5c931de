"""WindowDetokenizer: a detokenizer for any decoder of the library.

One token may hold a part of a character only, and some decoders look at the token before. So a
window of the latest ids is decoded again at each step: a few ids of context, whose text is out
already, and the ids whose text is not complete. The work for a token does not grow with the output.

The pieces joined equal the decode of the whole. A tokenizer with byte fallback may decode a long
run of invalid bytes in another way as a whole.
"""

from collections.abc import Sequence
from itertools import islice

from tokenizer_service.text.tokenizer import Tokenizer

_REPLACEMENT = "\ufffd"
# A UTF-8 character has at most 4 bytes and a token at least one: of an incomplete character at most
# 3 tokens wait for the rest, and no decoder shows them as more than 3 U+FFFD.
_MOST_HELD = 3
# A window that found no clean end is cut when it holds more ids than this.
_MOST_WINDOW = 24
# Ids that a cut leaves, at least: they have a byte each, so that _MOST_HELD characters of up to 4
# bytes, which are not out yet, lie wholly in what is left.
_LEFT_BY_CUT = 4 * _MOST_HELD
# Of ids whose text is out these latest ones can matter to what follows: a decoder that begins
# inside a character is right again after it.
_MOST_SKIPPED = 2 * _MOST_WINDOW


class WindowDetokenizer:
    """The text of one growing sequence of token ids; its methods are Detokenizer's."""

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._hidden = tokenizer.special_ids if skip_special_tokens else frozenset()
        self._window: list[int] = []
        self._num_context = 0
        """Ids at the window's start whose text is out and ends with a whole character."""
        self._num_emitted = 0
        """Characters of the window's text that are out."""

    def skip(self, token_ids: Sequence[int]) -> None:
        """See Detokenizer."""
        visible = (i for i in reversed(token_ids) if i not in self._hidden)
        self.push([*islice(visible, _MOST_SKIPPED)][::-1])

    def push(self, token_ids: Sequence[int]) -> str:
        """See Detokenizer."""
        vocab_size = self._tokenizer.vocab_size
        # An id without text must not become the context that a decoder needs.
        ids = [i for i in token_ids if i < vocab_size and i not in self._hidden]
        if not ids:
            return ""
        self._window += ids
        text = self._decode(self._window)
        piece = self._up_to_clean_end(text)
        if piece is None:
            # More ids than a character has bytes: these bytes are no text and never will be.
            num_certain = max(len(text.rstrip(_REPLACEMENT)), len(text) - _MOST_HELD)
            piece = text[self._num_emitted : num_certain]
            self._num_emitted = max(self._num_emitted, num_certain)
        if len(self._window) - self._num_context > _MOST_WINDOW:
            self._cut()
        return piece

    def flush(self) -> str:
        """See Detokenizer."""
        piece = self._decode(self._window)[self._num_emitted :]
        self._window.clear()
        self._num_context = self._num_emitted = 0
        return piece

    def _up_to_clean_end(self, text: str) -> str | None:
        """New text up to the last of the window's ids that completes a character.

        None where not even leaving out _MOST_HELD ids makes the text end with a whole character.
        """
        end = len(self._window)
        lowest = max(self._num_context, end - _MOST_HELD)
        while text.endswith(_REPLACEMENT):
            end -= 1
            if end < lowest:
                return None
            text = self._decode(self._window[:end])
        piece = text[self._num_emitted :]
        if piece:
            del self._window[: self._num_context]
            self._num_context = end - self._num_context
            self._num_emitted = len(self._decode(self._window[: self._num_context]))
        return piece

    def _cut(self) -> None:
        """Drops the older ids of the window, where that changes no character.

        Of four neighbouring places between ids of a byte each, one at least lies between
        characters: cut inside a character, both sides together show more characters than the whole.
        """
        text = self._decode(self._window)
        last = len(self._window) - _LEFT_BY_CUT
        for place in range(last, last - 4, -1):
            before, after = self._decode(self._window[:place]), self._decode(self._window[place:])
            if before + after == text:
                break
        num_held = len(text) - self._num_emitted
        del self._window[:place]
        self._num_context = 0
        self._num_emitted = max(0, len(after) - num_held)

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode_known(ids, self._skip_special_tokens)
