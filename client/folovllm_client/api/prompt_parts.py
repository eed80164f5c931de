"""PromptParts: a prompt as it was given, in any of its forms."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

from folovllm.errors import InvalidRequestError
from folovllm.prompts import TextPrompt, TokensPrompt

Prompt = str | Sequence[int] | TextPrompt | TokensPrompt | Mapping[str, Any]
"""A text, token ids, {"prompt": text} or {"prompt_token_ids": ids}."""

_KEYS = frozenset(TextPrompt.__annotations__ | TokensPrompt.__annotations__)


@dataclass(frozen=True, slots=True)
class PromptParts:
    """A text, token ids or both; of both the ids are taken."""

    text: str | None
    token_ids: list[int] | None
    cache_salt: str = ""

    @property
    def text_or_ids(self) -> str | list[int]:
        """The one that counts."""
        return (self.text or "") if self.token_ids is None else self.token_ids

    @classmethod
    def read(cls, prompt: "Prompt | PromptParts") -> "PromptParts":
        """Takes a prompt apart. Raises InvalidRequestError that names what is wrong."""
        if isinstance(prompt, PromptParts):
            return prompt
        if isinstance(prompt, str):
            return cls(prompt, None)
        if not isinstance(prompt, Mapping):
            return cls(None, _token_ids("prompt", prompt))
        if unknown := next((key for key in prompt if key not in _KEYS), None):
            raise InvalidRequestError("prompt", f"a prompt has no {unknown}")
        text, ids, salt = (prompt.get(key) for key in ("prompt", "prompt_token_ids", "cache_salt"))
        if not isinstance(text, str | None) or not isinstance(salt, str | None):
            raise InvalidRequestError("prompt", "prompt and cache_salt of a prompt must be texts")
        if text is None and ids is None:
            raise _not_a_prompt("prompt", prompt)
        return cls(text, None if ids is None else _token_ids("prompt_token_ids", ids), salt or "")


def _token_ids(field: str, given: object) -> list[int]:
    if not isinstance(given, Iterable) or isinstance(given, str | bytes | Mapping):
        raise _not_a_prompt(field, given)
    try:
        return [*map(index, given)]
    except TypeError:
        raise InvalidRequestError(
            "prompt_token_ids", f"prompt_token_ids must be whole numbers, got {given!r:.60}"
        ) from None


def _not_a_prompt(field: str, given: object) -> InvalidRequestError:
    forms = 'a text, a list of token ids, {"prompt": text} or {"prompt_token_ids": ids}'
    return InvalidRequestError(field, f"a prompt is {forms}, not {given!r:.60}")
