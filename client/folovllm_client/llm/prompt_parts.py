"""PromptParts: a prompt as it was given, in any of vLLM's forms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

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
    def read(cls, prompt: object) -> "PromptParts":
        """Takes a prompt apart. Raises InvalidRequestError that names what is wrong."""
        given: Mapping[str, object] = {"prompt": prompt}
        if isinstance(prompt, PromptParts):
            return prompt
        if isinstance(prompt, Mapping):
            given = prompt
        elif not isinstance(prompt, str):
            given = {"prompt_token_ids": prompt}
        unknown = sorted(map(str, given.keys() - _KEYS))
        if unknown:
            raise InvalidRequestError("prompt", f"a prompt has no {unknown[0]}")
        text, token_ids = given.get("prompt"), given.get("prompt_token_ids")
        salt = given.get("cache_salt") or ""
        if not isinstance(text, str | None) or not isinstance(salt, str):
            raise InvalidRequestError("prompt", "prompt and cache_salt must be texts")
        if token_ids is not None and not is_token_ids(token_ids):
            raise InvalidRequestError("prompt_token_ids", "prompt_token_ids must be a list of ids")
        if text is None and token_ids is None:
            raise InvalidRequestError(
                "prompt",
                'a prompt is a text, a list of token ids, {"prompt": text} or '
                '{"prompt_token_ids": ids}',
            )
        return cls(text, None if token_ids is None else [*cast(Sequence[int], token_ids)], salt)


def list_prompts(prompts: object) -> list[object]:
    """One prompt, or several, as a list."""
    if isinstance(prompts, str | Mapping) or (is_token_ids(prompts) and prompts):
        return [prompts]
    if not isinstance(prompts, Sequence):
        raise InvalidRequestError("prompts", f"prompts must be a prompt or a list, got {prompts!r}")
    return list(prompts)


def is_token_ids(given: object) -> bool:
    """Whether it is a sequence of whole numbers."""
    return (
        isinstance(given, Sequence)
        and not isinstance(given, str | bytes)
        and all(isinstance(token_id, int) for token_id in given)
    )
