"""Tokenizer: text to token ids and back, by the tokenizer.json of a model's folder.

A model's vocabulary may be larger than its tokenizer's, because embeddings are padded; the padding
ids have no text.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import tokenizers
from tokenizers import decoders

from folovllm.errors import ConfigError, InvalidRequestError
from folovllm.model_files import find_tokenizer_files, tokenizer_fingerprint
from tokenizer_service.text.byte_vocabulary import token_bytes
from tokenizer_service.text.segmented_encoder import MIN_SEGMENT, SegmentedEncoder, segment_border

# Only the library's batched calls release the interpreter's lock. Acquiring it again can cost more
# than decoding this many ids.
_MAX_LOCKED_TOKENS = 1024


class TokenOffsets:
    """Token ids, and where each begins and ends in the given text.

    Offsets are in characters, the end exclusive; a special token that was added has (0, 0).
    """

    def __init__(self, encoding: tokenizers.Encoding) -> None:
        self._encoding = encoding
        self.token_ids: list[int] = encoding.ids

    def between(self, begin: int, end: int) -> tuple[list[int], list[int]]:
        """The offsets of some of the tokens: where they begin, and where they end."""
        # One call for all would hold the lock: for 100,000 tokens, longer than a stream may wait.
        places = [self._encoding.token_to_chars(index) or (0, 0) for index in range(begin, end)]
        return [start for start, _ in places], [end for _, end in places]


class Tokenizer:
    """One model's tokenizer. May be used from several threads at once."""

    def __init__(
        self, backend: tokenizers.Tokenizer, fingerprint: str = "", files: tuple[Path, ...] = ()
    ) -> None:
        # A tokenizer.json may hold settings for training, which would silently truncate prompts.
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self.fingerprint = fingerprint
        """SHA-256 of tokenizer.json; an engine must report the same."""
        self.files = files
        """The files that describe it, in the folder that it was read from."""
        vocab = backend.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocab.values(), default=-1) + 1
        """The highest id that has a text, plus one."""
        is_byte_level = isinstance(backend.decoder, decoders.ByteLevel)
        self.token_bytes: Sequence[bytes] | None = token_bytes(vocab) if is_byte_level else None
        """The bytes that each id stands for; None if the tokenizer is not byte-level."""
        added = backend.get_added_tokens_decoder()
        self.special_ids = frozenset(i for i, token in added.items() if token.special)
        """Ids of the special tokens, which skip_special_tokens omits."""
        self._added_ids = {token.content: token_id for token_id, token in added.items()}
        border = segment_border(backend)
        self._segmented = border and SegmentedEncoder(self.encode_batch, border)

    @classmethod
    def from_folder(cls, path: Path) -> "Tokenizer":
        """Reads tokenizer.json. Raises ConfigError if it is missing or broken."""
        file = path / "tokenizer.json"
        if not file.is_file():
            raise ConfigError(f"{path} has no tokenizer.json; is it a model's folder?")
        try:
            backend = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises nothing narrower
            reason = " ".join(str(error).split())
            raise ConfigError(f"{file} cannot be read as a tokenizer: {reason}") from None
        return cls(backend, tokenizer_fingerprint(path), find_tokenizer_files(path))

    def added_token_id(self, token: str) -> int | None:
        """The id of an added token; None if there is no such token."""
        return self._added_ids.get(token)

    def encode(self, text: str, add_special_tokens: bool = True, *, keep: bool = True) -> list[int]:
        """The token ids of a text; releases the interpreter's lock.

        `keep` is False for a text that will not come again: it takes no other's place in the cache.
        """
        if self._segmented is not None and len(text) >= MIN_SEGMENT:
            return self._segmented.encode(text, keep)
        return self.encode_batch([text], add_special_tokens)[0]

    def encode_batch(
        self, texts: Sequence[str], add_special_tokens: bool = True
    ) -> list[list[int]]:
        """The token ids of each text; releases the interpreter's lock."""
        # Batched to release the lock; fast since the offsets that it omits are not needed.
        encodings = self._backend.encode_batch_fast(
            list(texts), add_special_tokens=add_special_tokens
        )
        return [encoding.ids for encoding in encodings]

    def encode_with_offsets(
        self, texts: Sequence[str], add_special_tokens: bool = True
    ) -> list[TokenOffsets]:
        """The token ids of each text with their offsets; releases the interpreter's lock."""
        encodings = self._backend.encode_batch(list(texts), add_special_tokens=add_special_tokens)
        return [TokenOffsets(encoding) for encoding in encodings]

    def pieces(self, token_ids: Sequence[int]) -> list[bytes]:
        """The bytes of each id; if the tokenizer is not byte-level, of its text by itself."""
        if self.token_bytes is not None:
            return [self.token_bytes[i] for i in token_ids]
        texts = self._backend.decode_batch([[i] for i in token_ids], skip_special_tokens=False)
        return [text.encode() for text in texts]

    def decode(self, token_ids: int | Iterable[int], skip_special_tokens: bool = True) -> str:
        """The text of token ids, or of one, also from an array; invalid UTF-8 becomes U+FFFD.

        Raises InvalidRequestError for an id that is not in the vocabulary.
        """
        ids = [token_ids] if isinstance(token_ids, int) else [int(i) for i in token_ids]
        check_token_ids(ids, self.vocab_size)
        return self.decode_known(ids, skip_special_tokens)

    def decode_known(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """As decode, but ids of the model that the tokenizer lacks have no text."""
        if len(token_ids) <= _MAX_LOCKED_TOKENS:
            text: str = self._backend.decode(token_ids, skip_special_tokens=skip_special_tokens)
            return text
        texts: list[str] = self._backend.decode_batch(
            [token_ids], skip_special_tokens=skip_special_tokens
        )
        return texts[0]


def check_token_ids(token_ids: Sequence[int], vocab_size: int, field: str = "token_ids") -> None:
    """Raises InvalidRequestError naming `field` unless all ids are below `vocab_size`."""
    if not token_ids:
        return
    extreme = max(token_ids) if min(token_ids) >= 0 else min(token_ids)
    if not 0 <= extreme < vocab_size:
        raise InvalidRequestError(
            field, f"token id {extreme} is not in the vocabulary of {vocab_size} ids"
        )
