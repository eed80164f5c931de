"""Draws tokens from logits. For each row, in this order, which is vLLM's:

1. masks limit what may be drawn: a grammar's, and allowed_token_ids keeps only its own ids (if the
   two have no id in common, the grammar alone counts);
2. forbidden ids are taken out: those that would complete a bad word, and before min_tokens those
   that end the sequence (if nothing would be left they stay, since masks take precedence);
3. logit_bias is added;
4. repetition_penalty, then frequency_penalty and presence_penalty;
5. temperature 0: the most probable token, the lowest id of equals, and that is all;
6. else logits are divided by the temperature;
7. min_p keeps the tokens of at least min_p times the probability of the most probable one, and
   top_k the k most probable (both only compare values, so their order does not matter);
8. top_p keeps the most probable of the rest until their mass reaches top_p;
9. the token is drawn by inverse CDF in vocabulary order, with `uniform(seed, index, position)`.

Log-probabilities are of the logits before all this: see `logprobs`.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from engine_service.core.outputs import ScheduledSequence
from engine_service.models.causal_model import torch_argmax
from engine_service.runner.sampling.filters import filtered_weights, has_candidates, inverse_cdf
from engine_service.runner.sampling.logits_processors import NO_MASKS, process_logits
from engine_service.seeding import uniform

Argmax = Callable[[Tensor], tuple[Tensor, Tensor]]
"""See CausalModel.argmax."""

# Weights of rows that are computed together: what a processor's cache holds.
_MAX_WEIGHTS = 2**19


def sample(
    logits: Tensor,
    sequences: Sequence[ScheduledSequence],
    grammar_masks: Mapping[int, Tensor] = NO_MASKS,
    argmax: Argmax = torch_argmax,
) -> list[list[int]]:
    """A token id for each of the sample_indexes of each sequence.

    No id for a row whose maximum is not a finite number. `logits` is [len(sequences), vocab_size]
    in any floating type and may be overwritten; `grammar_masks` has for some rows the ids that may
    be drawn, bool [vocab_size].
    """
    logits = process_logits(logits, sequences, grammar_masks)
    drawn = _greedy(logits, sequences, argmax)
    random = [i for i, s in enumerate(sequences) if drawn[i] and not s.sampling_params.greedy]
    for rows in _groups(random, sequences, logits.shape[-1]):
        own_logits = logits if len(rows) == len(sequences) else logits[rows]
        token_ids = _random(own_logits, [sequences[i] for i in rows])
        for row, row_ids in zip(rows, token_ids, strict=True):
            drawn[row] = row_ids
    return drawn


def _groups(
    random: list[int], sequences: Sequence[ScheduledSequence], vocab_size: int
) -> list[list[int]]:
    """The rows that are drawn at random: those with candidates, then the others in bounded groups.

    Candidates are few; the others have a weight for each id of the vocabulary.
    """
    few = [i for i in random if has_candidates(sequences[i].sampling_params, vocab_size)]
    whole = sorted({*random} - {*few}) if few else random
    size = max(1, _MAX_WEIGHTS // vocab_size)
    groups = [whole[start : start + size] for start in range(0, len(whole), size)]
    return [few, *groups] if few else groups


def _greedy(
    logits: Tensor, sequences: Sequence[ScheduledSequence], argmax: Argmax
) -> list[list[int]]:
    """The most probable token of each row, as often as it draws; only greedy ones need it.

    The maximum also tells whether a row's logits are finite; there is no token if they are not.
    """
    maxima, found = argmax(logits)
    finite = maxima.isfinite().tolist()
    return [
        [token_id] * len(sequence.sample_indexes) if is_finite else []
        for token_id, is_finite, sequence in zip(found.tolist(), finite, sequences, strict=True)
    ]


def _random(logits: Tensor, sequences: Sequence[ScheduledSequence]) -> list[list[int]]:
    """Random draws for rows that have candidates, all of them or none."""
    weights, token_ids = filtered_weights(logits, [s.sampling_params for s in sequences])
    columns = inverse_cdf(weights, _uniforms(sequences, logits.device))
    drawn = columns if token_ids is None else token_ids.gather(-1, columns)
    return [
        row[: len(sequence.sample_indexes)]
        for row, sequence in zip(drawn.tolist(), sequences, strict=True)
    ]


def _uniforms(sequences: Sequence[ScheduledSequence], device: torch.device) -> Tensor:
    """The random numbers of each row's draws, [rows, max draws], float64; unused ones are 0."""
    width = max(len(sequence.sample_indexes) for sequence in sequences)
    numbers = [
        [uniform(s.seed, index, s.num_tokens) for index in s.sample_indexes]
        + [0.0] * (width - len(s.sample_indexes))
        for s in sequences
    ]
    return torch.tensor(numbers, dtype=torch.float64, device=device)
