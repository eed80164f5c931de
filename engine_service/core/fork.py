"""Fork: a running request's branches, as they are asked for and as the requests they become."""

import time
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine_service.core.request import Request, Sequence
from engine_service.core.token_matcher import TokenMatcher
from folovllm.request_id import new_request_id

if TYPE_CHECKING:
    from folovllm.sampling_params import SamplingParams


@dataclass(frozen=True, slots=True)
class Branch:
    """One way to go on: n is 1, and `seed` counts where sampling_params has none."""

    sampling_params: "SamplingParams"
    seed: int
    matcher: TokenMatcher | None = None
    """Of the grammar that what the branch adds must follow, if there is one."""


@dataclass(frozen=True, slots=True)
class Fork:
    """Asks for branches of one sequence of a running request, in whatever state that is."""

    request_id: str
    """The parent's."""
    index: int
    """Which of the parent's sequences."""
    fork_id: str
    """The name of the branches' outputs."""
    branches: SequenceOf[Branch]
    arrival_time: float = field(default_factory=time.monotonic)

    def requests(self, parent: Sequence) -> list[Request]:
        """A request for each branch, whose prompt is all that `parent` has so far.

        So a branch draws what a new request of this prompt would. The parent's output counts as
        output still where penalties and bad words look at the past.
        """
        origin = parent.request
        return [
            Request(
                new_request_id(),
                parent.token_ids,
                branch.sampling_params,
                seed=branch.seed,
                matcher=branch.matcher,
                priority=origin.priority,
                cache_salt=origin.cache_salt,
                arrival_time=self.arrival_time,
                num_parent_output_tokens=(
                    origin.num_parent_output_tokens + parent.num_output_tokens
                ),
            )
            for branch in self.branches
        ]
