"""WindowDetokenizer: a detokenizer for any decoder of the library.

A token may hold only a part of a character, and some decoders look at the token before. So a window
of the latest ids is decoded again at each step: a few ids of context, whose text was returned
already, and the ids whose text is incomplete. The work for a token does not grow with the output.

The texts joined equal the decode of the whole, except that a tokenizer with byte fallback may
decode a long run of invalid bytes differently as a whole.
"""

from collections.abc import Sequence
from itertools import islice

from tokenizer_service.text.tokenizer import Tokenizer

_REPLACEMENT = "\ufffd"
# A UTF-8 character has at most 4 bytes and a token at least one: at most 3 tokens of a character
# wait for the rest, and no decoder returns more than 3 U+FFFD for them.
_MAX_HELD = 3
# A window without a clean end is cut when it holds more ids than this.
_MAX_WINDOW = 24
# Ids that a cut leaves at least: each has a byte, so they cover _MAX_HELD characters of up to 4
# bytes, which were not returned yet.
_MIN_LEFT = 4 * _MAX_HELD
# Of ids whose text was returned, only these latest ones can affect what follows: a decoder that
# begins inside a character is right again after it.
_MAX_SKIPPED = 2 * _MAX_WINDOW


class WindowDetokenizer:
    """The text of one growing sequence of token ids; its methods are Detokenizer's."""

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._hidden = tokenizer.special_ids if skip_special_tokens else frozenset()
        self._window: list[int] = []
        self._num_context = 0
        """Ids at the window's start whose text was returned and ends with a whole character."""
        self._num_emitted = 0
        """Characters of the window's text that were returned."""

    def skip(self, token_ids: Sequence[int]) -> None:
        """See Detokenizer."""
        visible = (i for i in reversed(token_ids) if i not in self._hidden)
        self.push([*islice(visible, _MAX_SKIPPED)][::-1])

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
            # More ids than a character has bytes: these bytes are invalid whatever follows.
            num_certain = max(len(text.rstrip(_REPLACEMENT)), len(text) - _MAX_HELD)
            piece = text[self._num_emitted : num_certain]
            self._num_emitted = max(self._num_emitted, num_certain)
        if len(self._window) - self._num_context > _MAX_WINDOW:
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

        None if the text does not end with a whole character even without _MAX_HELD ids.
        """
        end = len(self._window)
        lowest = max(self._num_context, end - _MAX_HELD)
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
        """Drops the older ids of the window, at a boundary between characters.

        Of four adjacent boundaries between ids of a byte each, at least one is such: if a character
        is split, both parts together decode to more characters than the whole.
        """
        text = self._decode(self._window)
        last = len(self._window) - _MIN_LEFT
        for index in range(last, last - 4, -1):
            before, after = self._decode(self._window[:index]), self._decode(self._window[index:])
            if before + after == text:
                break
        num_held = len(text) - self._num_emitted
        del self._window[:index]
        self._num_context = 0
        self._num_emitted = max(0, len(after) - num_held)

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode_known(ids, self._skip_special_tokens)
