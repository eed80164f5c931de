"""Token ids to text while they arrive, never half a character, up to the first stop string.

A token of a byte-level tokenizer is bytes, and the text of a sequence is the decode of its bytes.
Other decoders look at neighbouring tokens, which takes a window of the latest ids.
"""

import codecs
from collections.abc import Sequence
from itertools import islice
from typing import Protocol

from folovllm.sampling_params import SamplingParams
from tokenizer_service.text.stop_strings import StopStrings
from tokenizer_service.text.tokenizer import Tokenizer
from tokenizer_service.text.window_detokenizer import WindowDetokenizer

# Of a UTF-8 character, at most 4 bytes long, at most 3 bytes wait for the rest.
_MAX_INCOMPLETE = 3

_new_utf8_decoder = codecs.getincrementaldecoder("utf-8")


class Detokenizer(Protocol):
    """The text of one growing sequence of token ids. Unknown ids have no text."""

    def skip(self, token_ids: Sequence[int]) -> None:
        """Begins after these ids, whose text was returned before, except an incomplete character.

        That character is returned whole with the ids that follow.
        """

    def push(self, token_ids: Sequence[int]) -> str:
        """Adds ids and returns the text that is certain now; it may be empty."""

    def flush(self) -> str:
        """The text that is still held, at the end of the ids. The next push begins anew."""


def new_detokenizer(tokenizer: Tokenizer, skip_special_tokens: bool = True) -> Detokenizer:
    """The detokenizer for a sequence of a tokenizer's ids."""
    if tokenizer.token_bytes is None:
        return WindowDetokenizer(tokenizer, skip_special_tokens)
    hidden = tokenizer.special_ids if skip_special_tokens else frozenset()
    return ByteDetokenizer(tokenizer.token_bytes, hidden)


class ByteDetokenizer:
    """A Detokenizer for ids that stand for bytes: exactly the decode of all bytes as a whole.

    `token_bytes` has the bytes of each id; ids beyond it, and those in `hidden`, have no text.
    """

    def __init__(self, token_bytes: Sequence[bytes], hidden: frozenset[int] = frozenset()) -> None:
        self._token_bytes = token_bytes
        self._hidden = hidden
        self._decoder = _new_utf8_decoder(errors="replace")

    def skip(self, token_ids: Sequence[int]) -> None:
        """See Detokenizer."""
        # The first byte of a character continues none, so the latest bytes show what is incomplete.
        latest = (data for i in reversed(token_ids) if (data := self._bytes_of([i])))
        self._decoder.decode(b"".join([*islice(latest, _MAX_INCOMPLETE)][::-1]))

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


class NoText:
    """A Detokenizer for those who want the ids alone."""

    def skip(self, token_ids: Sequence[int]) -> None:
        """See Detokenizer."""

    def push(self, token_ids: Sequence[int]) -> str:
        """See Detokenizer."""
        return ""

    def flush(self) -> str:
        """See Detokenizer."""
        return ""


class StoppingDetokenizer:
    """The text of one sequence by its SamplingParams; at a stop string it is done.

    A match counts if the token that completes it comes after the first min_tokens tokens; it may
    begin in their text. Text that may still become a stop string is held back.
    """

    def __init__(self, tokenizer: Tokenizer, params: SamplingParams) -> None:
        self.stop: str | None = None
        """The stop string that was found."""
        self.num_tokens = 0
        """Ids that were pushed; after a stop string, up to the one that completed it."""
        self._min_tokens = params.min_tokens
        self._detokenizer: Detokenizer = (
            new_detokenizer(tokenizer, params.skip_special_tokens)
            if params.detokenize
            else NoText()
        )
        self._stop_strings = (
            StopStrings(params.stop, params.include_stop_str_in_output) if params.stop else None
        )
        self.skip = self._detokenizer.skip

    def push(self, token_ids: Sequence[int]) -> str:
        """See Detokenizer."""
        if self._stop_strings is None:
            self.num_tokens += len(token_ids)
            return self._detokenizer.push(token_ids)
        texts = []
        for token_id in token_ids:
            self.num_tokens += 1
            texts.append(self._watch(self._stop_strings, self._detokenizer.push([token_id])))
            if self.stop is not None:
                break
        return "".join(texts)

    def flush(self) -> str:
        """The text that is still held, at the very end; it may complete a stop string."""
        rest = self._detokenizer.flush()
        if self._stop_strings is None:
            return rest
        text = self._watch(self._stop_strings, rest)
        return text if self.stop is not None else text + self._stop_strings.flush()

    def _watch(self, stop_strings: StopStrings, text: str) -> str:
        certain, self.stop = stop_strings.push(text, self.num_tokens > self._min_tokens)
        return certain
