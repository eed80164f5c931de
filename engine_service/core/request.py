"""Request and Branch: what a caller asked for, as plain data that never changes."""

import time
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from folovllm.sampling_params import SamplingParams


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """n continuations of a prompt, or the log-probabilities of a given one."""

    request_id: str
    prompt_token_ids: SequenceOf[int]
    """Kept as a tuple."""
    sampling_params: "SamplingParams"
    seed: int = field(default=0, kw_only=True)
    """That of sampling_params, if it has one."""
    priority: int = field(default=0, kw_only=True)
    cache_salt: str = field(default="", kw_only=True)
    arrival_time: float = field(default_factory=time.monotonic, kw_only=True)
    num_parent_output_tokens: int = field(default=0, kw_only=True)
    """Of a branch: how many of the prompt's last tokens its parent generated."""
    scored_from: int | None = field(default=None, kw_only=True)
    """Of a request that generates nothing: the index, at least 1, of the first prompt token whose
    log-probability is wanted."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt_token_ids", tuple(self.prompt_token_ids))
        if self.sampling_params.seed is not None:
            object.__setattr__(self, "seed", self.sampling_params.seed)


@dataclass(frozen=True, slots=True)
class Branch:
    """One way to continue a running sequence; n is 1. `seed` is for parameters that have none."""

    sampling_params: "SamplingParams"
    seed: int = 0
