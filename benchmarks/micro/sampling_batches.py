"""Batches of decoding sequences that ask the sampler for little, for much, or each for its own."""

from collections.abc import Sequence

import numpy as np

from engine_service.core.outputs import ScheduledSequence
from folovllm.sampling_params import SamplingParams

_PENALTIES: dict[str, object] = {
    "repetition_penalty": 1.1,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.3,
}
_LOGPROBS = 5
# What min_tokens and bad words take out at a step, as the scheduler hands it over.
_FORBIDDEN = 4


def sampling_batches(
    sequences: int, context: int, vocab_size: int
) -> dict[str, list[ScheduledSequence]]:
    """Batches by name. Half of each sequence's `context` tokens are prompt, half output.

    Where every feature is spread over the batch, each row has penalties, logprobs and one or the
    other of the filters and masks, as requests of different clients have; where all are on every
    row, top_k makes what follows it cheap.
    """
    rng = np.random.default_rng(0)

    def some_ids(count: int) -> list[int]:
        return [int(i) for i in rng.choice(vocab_size, min(count, vocab_size // 2), replace=False)]

    bias = dict.fromkeys(some_ids(16), 1.5)
    allowed = some_ids(1024)
    everything = _PENALTIES | {
        "temperature": 0.8,
        "top_k": 50,
        "top_p": 0.95,
        "min_p": 0.02,
        "logit_bias": bias,
        "allowed_token_ids": allowed,
        "logprobs": _LOGPROBS,
    }
    spread: list[dict[str, object]] = [
        {"temperature": 0.8, "top_k": 50, "top_p": 0.95, "logit_bias": bias},
        {"temperature": 0.8, "top_p": 0.95},
        {"temperature": 1.0, "min_p": 0.02, "logit_bias": bias},
        {"temperature": 0.7, "top_p": 0.9, "allowed_token_ids": allowed},
    ]
    mixed = [_PENALTIES | {"logprobs": _LOGPROBS} | changes for changes in spread]
    kinds: dict[str, tuple[list[dict[str, object]], int]] = {
        "greedy": ([{"temperature": 0.0}], 0),
        "random": ([{"temperature": 1.0}], 0),
        "every feature, spread": (mixed, _FORBIDDEN),
        "every feature on every row": ([everything], _FORBIDDEN),
    }
    return {
        name: [
            _sequence(row, changes[row % len(changes)], some_ids(context), some_ids(forbidden))
            for row in range(sequences)
        ]
        for name, (changes, forbidden) in kinds.items()
    }


def _sequence(
    row: int, changes: dict[str, object], history: Sequence[int], forbidden: Sequence[int]
) -> ScheduledSequence:
    return ScheduledSequence(
        seq_id=row,
        token_ids=history[-1:],
        num_computed_tokens=len(history) - 1,
        block_table=(),
        sampling_params=SamplingParams().clone(**changes),
        seed=row,
        sample_indexes=(0,),
        forbidden_token_ids=tuple(forbidden),
        token_history=history,
        num_prompt_tokens=len(history) // 2,
    )
