"""GrammarVocabulary: the bytes of each token id, for grammars.

This is the engine's only use of text: a grammar is over bytes, the model chooses ids. The table
comes from the model folder's tokenizer.json, when the first structured request needs it.
"""

import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from llguidance import LLTokenizer
from numpy.typing import NDArray

from engine_service.structured_output.library import read_tokenizer
from folovllm.errors import ConfigError


class GrammarVocabulary:
    """The token ids of one model. Safe to use from many threads.

    `vocab_size` is the model's, which may exceed the tokenizer's: no text has the ids in between,
    so only a grammar over ids, such as that of reasoning, allows them. `eos_token_ids` end an
    output.
    """

    def __init__(self, folder: Path, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        self.vocab_size = vocab_size
        self.eos_token_ids = tuple(eos_token_ids)
        self.path = folder / "tokenizer.json"
        """Of the vocabulary's file."""
        self._loading = threading.Lock()
        self._tokenizer: LLTokenizer | None = None

    @property
    def num_words(self) -> int:
        """The int32 words of a bitmask with one bit for each id."""
        return (self.vocab_size + 31) // 32

    @cached_property
    def all_but_eos(self) -> NDArray[np.int32]:
        """A bitmask row [num_words] with the bits of the EOS ids clear and all others set."""
        row = np.zeros(self.num_words, dtype=np.uint32)
        for token_id in self.eos_token_ids:
            row[token_id // 32] |= np.uint32(1 << token_id % 32)
        return ~row.view(np.int32)

    def load(self) -> LLTokenizer:
        """The library's tokenizer, built on the first call. Raises ConfigError.

        See `library.read_tokenizer` for what that takes.
        """
        with self._loading:
            if self._tokenizer is None:
                self._tokenizer = self._build()
            return self._tokenizer

    def _build(self) -> LLTokenizer:
        if not self.eos_token_ids:
            raise ConfigError("structured output needs a model with an EOS id; this one has none")
        try:
            return read_tokenizer(self.path, self.vocab_size, self.eos_token_ids)
        except FileNotFoundError:
            raise ConfigError(
                f"structured output needs {self.path.name}, which the model's folder lacks"
            ) from None
        except (OSError, UnicodeError) as error:
            raise ConfigError(f"{self.path.name} cannot be read: {error}") from None
        except ValueError as error:
            raise ConfigError(
                f"{self.path.name} is of no use for structured output: {error}"
            ) from None
