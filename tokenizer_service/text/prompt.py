"""Prompt: the token ids that a request sends to an engine, and what identifies them."""

import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256


@dataclass(frozen=True, slots=True)
class Prompt:
    """The ids, at least one."""

    token_ids: Sequence[int]
    fingerprint: str
    """As RequestInfo has it."""

    @classmethod
    def of(cls, token_ids: Sequence[int]) -> "Prompt":
        """Computes the fingerprint: SHA-256 of the ids, each as four bytes, the lowest first."""
        words = array("I", token_ids)
        if sys.byteorder == "big":
            words.byteswap()
        return cls(token_ids, sha256(words).hexdigest())
