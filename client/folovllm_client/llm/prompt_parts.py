"""Which prompts of LLM's arguments are one prompt, and which are several."""

from collections.abc import Mapping, Sequence

from folovllm.errors import InvalidRequestError
from folovllm_client.api.prompt_parts import Prompt, PromptParts

__all__ = ["Prompt", "PromptParts", "is_token_ids", "list_prompts"]


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
