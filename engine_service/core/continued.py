"""Continued: what a request has generated before, at an engine that does not go on with it.

A draw depends on the seed, the index and the position alone, and everything else on the tokens so
far. So an engine that has the tokens is where the other one was, as after a preemption.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add

from engine_service.core.token_ids import token_array


@dataclass(frozen=True, slots=True, eq=False)
class ContinuedOutput:
    """The output so far of one continuation that has not ended."""

    index: int
    token_ids: Sequence[int] = ()
    """Kept as an array; perhaps none."""
    logprobs: Sequence[float] = field(default=(), kw_only=True)
    """Of each of token_ids, if the request asks for them. Kept as an array."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "token_ids", token_array(self.token_ids))
        object.__setattr__(self, "logprobs", array("d", self.logprobs))

    @property
    def cumulative_logprob(self) -> float:
        """The sum of logprobs, rounded after each as when they come one by one."""
        return reduce(add, self.logprobs, 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class Continued:
    """The continuations of a request that have not ended, of which there is at least one."""

    outputs: Sequence[ContinuedOutput]
    """Each of another index. Those of the other indexes have ended."""
    branch_index: int = field(default=0, kw_only=True)
    """Of a fork's branch, which draws as index 0: the index that its outputs are reported with."""

    @property
    def num_tokens(self) -> int:
        """Those of all outputs."""
        return sum(len(output.token_ids) for output in self.outputs)
