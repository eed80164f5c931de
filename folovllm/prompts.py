"""Prompts as dicts, with vLLM's names and keys.

At run time they are plain dicts. A key that is not here, such as `multi_modal_data`, is refused by
name wherever a prompt is read.
"""

from collections.abc import Sequence
from typing import NotRequired, TypedDict


class TextPrompt(TypedDict):
    """A text, to be encoded with the model's own special tokens."""

    prompt: str
    cache_salt: NotRequired[str]
    """Prefix-cache blocks are shared only among requests of equal salt."""


class TokensPrompt(TypedDict):
    """Token ids, taken as they are."""

    prompt_token_ids: Sequence[int]
    prompt: NotRequired[str]
    """Their text, if the caller has it: it comes back in RequestOutput.prompt and is not read."""
    cache_salt: NotRequired[str]
    """Prefix-cache blocks are shared only among requests of equal salt."""
