"""SchedulerLimits: the size of a step, and what ends a sequence."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """The limits that the scheduler observes."""

    max_num_seqs: int
    """Sequences that may run at once."""
    max_num_batched_tokens: int
    """Tokens that one step may compute."""
    max_model_len: int
    """Tokens that prompt and output together may have."""
    eos_token_ids: frozenset[int]
    """Ids that end a sequence, unless its request ignores them."""
