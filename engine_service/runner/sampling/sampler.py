"""Draws tokens from logits. For each row, in this order, which is vLLM's:

1. masks say what may be drawn at all: a grammar's, and allowed_token_ids keeps only its own ids
   (but where the two have no id in common, the grammar alone counts);
2. forbidden ids are taken out: what would complete a bad word, and before min_tokens what ends
   (but where nothing would be left they stay, since a mask is the stronger wish);
3. logit_bias is added;
4. repetition_penalty, then frequency_penalty and presence_penalty;
5. temperature 0: the most probable token, the lowest id of equals, and that is all;
6. else logits are divided by the temperature;
7. min_p keeps the tokens of at least min_p times the probability of the most probable one, and
   top_k the k most probable (both compare values only, so their order is no matter);
8. top_p keeps the most probable of the rest until their mass reaches top_p;
9. the token is drawn by inverse CDF in vocabulary order, with `uniform(seed, index, position)`.

Log-probabilities are of the logits before all this: see `logprobs`.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from engine_service.core.outputs import ScheduledSequence
from engine_service.runner.sampling.filters import (
    inverse_cdf,
    keep_top_p,
    relative_weights,
    top_k_candidates,
)
from engine_service.runner.sampling.logits_processors import NO_MASKS, process_logits
from engine_service.seeding import uniform
from folovllm.errors import ServerError

Largest = Callable[[Tensor], tuple[Tensor, Tensor]]
"""The largest value of each row [rows, columns] and the lowest column that has it, [rows] each."""

# Weights of rows that are computed together: what a processor's cache holds.
_MOST_WEIGHTS = 2**19


def torch_largest(values: Tensor) -> tuple[Tensor, Tensor]:
    """See Largest."""
    return torch.max(values, dim=-1)


def sample(
    logits: Tensor,
    sequences: Sequence[ScheduledSequence],
    grammar_masks: Mapping[int, Tensor] = NO_MASKS,
    largest: Largest = torch_largest,
) -> list[list[int]]:
    """A token id for each of the sample_indexes of each sequence.

    `logits` is [len(sequences), vocab_size] in any floating type and may be overwritten;
    `grammar_masks` has for some rows the ids that may be drawn, bool [vocab_size]; `largest` finds
    each row's largest value. Raises ServerError where that is not a finite number.
    """
    logits = process_logits(logits, sequences, grammar_masks)
    drawn = _greedy(logits, sequences, largest)
    for rows in _random_groups(sequences, logits.shape[-1]):
        own_logits = logits if len(rows) == len(sequences) else logits[rows]
        token_ids = _random(own_logits, [sequences[i] for i in rows])
        for row, row_ids in zip(rows, token_ids, strict=True):
            drawn[row] = row_ids
    return drawn


def _random_groups(sequences: Sequence[ScheduledSequence], vocab_size: int) -> list[list[int]]:
    """The rows that are not greedy: those that top_k cuts, then the others in bounded groups.

    What top_k leaves is small; the others have a weight for each id of the vocabulary.
    """
    rows = [i for i, s in enumerate(sequences) if not s.sampling_params.greedy]
    cut = [i for i in rows if _is_cut(sequences[i], vocab_size)]
    whole = [i for i in rows if not _is_cut(sequences[i], vocab_size)]
    size = max(1, _MOST_WEIGHTS // vocab_size)
    groups = [whole[start : start + size] for start in range(0, len(whole), size)]
    return [cut, *groups] if cut else groups


def _is_cut(sequence: ScheduledSequence, vocab_size: int) -> bool:
    return 0 < sequence.sampling_params.top_k < vocab_size


def _greedy(
    logits: Tensor, sequences: Sequence[ScheduledSequence], largest: Largest
) -> list[list[int]]:
    """The most probable token of each row, as often as it draws; only greedy ones need it.

    The largest value also tells whether a row's logits are numbers.
    """
    values, found = largest(logits)
    for sequence, finite in zip(sequences, values.isfinite().tolist(), strict=True):
        if not finite:
            raise ServerError(
                f"the model's logits for sequence {sequence.seq_id} at position "
                f"{sequence.num_tokens} are not finite, so no token can be drawn"
            )
    return [
        [token_id] * len(sequence.sample_indexes)
        for token_id, sequence in zip(found.tolist(), sequences, strict=True)
    ]


def _random(logits: Tensor, sequences: Sequence[ScheduledSequence]) -> list[list[int]]:
    """Random draws for rows that top_k cuts, all of them or none."""
    params = [sequence.sampling_params for sequence in sequences]
    token_ids = None
    if _is_cut(sequences[0], logits.shape[-1]):
        logits, token_ids = top_k_candidates(logits, [p.top_k for p in params])
    weights = relative_weights(logits, [p.temperature for p in params], [p.min_p for p in params])
    keep_top_p(weights, [p.top_p for p in params])
    columns = inverse_cdf(weights, _uniforms(sequences, logits.device))
    drawn = columns if token_ids is None else token_ids.gather(-1, columns)
    return [
        row[: len(sequence.sample_indexes)]
        for row, sequence in zip(drawn.tolist(), sequences, strict=True)
    ]


def _uniforms(sequences: Sequence[ScheduledSequence], device: torch.device) -> Tensor:
    """The random numbers of each row's draws, [rows, most draws], float64; unused ones are 0."""
    width = max(len(sequence.sample_indexes) for sequence in sequences)
    numbers = [
        [uniform(s.seed, index, s.num_tokens) for index in s.sample_indexes]
        + [0.0] * (width - len(s.sample_indexes))
        for s in sequences
    ]
    return torch.tensor(numbers, dtype=torch.float64, device=device)
