"""SequenceData: the token ids of one sequence, as vLLM's code knows them."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SequenceData:
    """The ids of a prompt and of what was generated after it, at one moment."""

    prompt_token_ids: Sequence[int]
    output_token_ids: Sequence[int] = ()
    """Both are kept as tuples."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt_token_ids", tuple(self.prompt_token_ids))
        object.__setattr__(self, "output_token_ids", tuple(self.output_token_ids))

    def get_len(self) -> int:
        """Tokens of prompt and output."""
        return len(self.prompt_token_ids) + len(self.output_token_ids)

    def get_prompt_len(self) -> int:
        """Tokens of the prompt."""
        return len(self.prompt_token_ids)

    def get_output_len(self) -> int:
        """Tokens of the output."""
        return len(self.output_token_ids)

    def get_token_ids(self) -> list[int]:
        """Those of the prompt, then those of the output."""
        return [*self.prompt_token_ids, *self.output_token_ids]

    def get_last_token_id(self) -> int:
        """The latest of the output, else the last of the prompt."""
        return self.get_token_ids()[-1]
