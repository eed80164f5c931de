"""SchedulerLimits: what a step may hold, and what ends a sequence."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """The numbers by which the scheduler decides."""

    max_num_seqs: int
    """Most sequences that run at once."""
    max_num_batched_tokens: int
    """Most tokens that one step computes."""
    max_model_len: int
    """Most tokens of prompt and output together."""
    eos_token_ids: frozenset[int]
    """Ids that end a sequence, unless its request ignores them."""
