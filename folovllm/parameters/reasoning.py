"""Reasoning: what may come before the answer, and how long it may be."""

from dataclasses import MISSING, dataclass

from folovllm.parameters.checked_fields import checked, checks_of
from folovllm.parameters.checks import ANY_UINT32, check_int


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Reasoning that may come before the answer, in token ids. Raises InvalidRequestError.

    start_token_id begins it, as the first id of the output; None if the prompt has begun it.
    end_token_id ends it, and is generated after max_tokens ids in between; None is no bound.
    """

    end_token_id: int = checked(MISSING, check_int, ANY_UINT32)
    start_token_id: int | None = checked(None, check_int, ANY_UINT32, True)
    max_tokens: int | None = checked(None, check_int, ANY_UINT32, True)

    def __post_init__(self) -> None:
        for name, _, check, limits in checks_of(Reasoning):
            check(f"reasoning.{name}", getattr(self, name), *limits)
