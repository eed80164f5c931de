"""What parameters make of logits before the temperature, in the order that the sampler states.

Everything is computed in float32 and from a row's own values alone, so a row gets the same logits
in any batch. Rows that alter nothing cost next to nothing.
"""

from collections.abc import Collection, Mapping, Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from engine_service.core.outputs import ScheduledSequence
from engine_service.runner.sampling.filters import NEVER
from engine_service.runner.sampling.token_counts import Ids, TokenCounts, counts_of

_FLOAT32_MAX = torch.finfo(torch.float32).max
NO_MASKS: Mapping[int, Tensor] = {}
_Rows = Mapping[int, ScheduledSequence]
_Counts = Mapping[int, TokenCounts]


def process_logits(
    logits: Tensor,
    sequences: Sequence[ScheduledSequence],
    grammar_masks: Mapping[int, Tensor] = NO_MASKS,
) -> Tensor:
    """The logits to draw from, [len(sequences), vocab_size].

    They are `logits` itself, changed in place, or a copy in float32 if arithmetic is needed.
    `grammar_masks` has for some rows the ids that may be drawn, bool [vocab_size].
    """
    altered = {row: s for row, s in enumerate(sequences) if s.sampling_params.alters_logits}
    limited = list(grammar_masks)
    if altered:
        logits = logits.float().contiguous()
        limited += _allow(logits, altered, grammar_masks)
    for row, mask in grammar_masks.items():
        logits[row].masked_fill_(~mask.to(logits.device), NEVER)
    _forbid(logits, [sequence.forbidden_token_ids for sequence in sequences], limited)
    if altered:
        _add_bias(logits, altered)
        counts = {row: counts_of(s) for row, s in altered.items() if s.sampling_params.penalises}
        _penalise_repetition(logits, counts, altered)
        _penalise_frequency_and_presence(logits, counts, altered)
    return logits


def _allow(logits: Tensor, altered: _Rows, grammar_masks: Mapping[int, Tensor]) -> Collection[int]:
    """Takes out what allowed_token_ids leaves out; returns the rows that have such ids.

    If none of them is an id that the row's grammar allows, the grammar alone counts.
    """
    allowed = {
        row: ids
        for row, sequence in altered.items()
        if (ids := sequence.sampling_params.allowed_token_ids)
        and (row not in grammar_masks or bool(grammar_masks[row][list(ids)].any()))
    }
    if allowed:
        rows, columns = _cells(allowed, logits.device)
        kept = logits[rows, columns]
        logits[torch.tensor(list(allowed), device=logits.device)] = NEVER
        logits[rows, columns] = kept
    return allowed


def _forbid(
    logits: Tensor, token_ids: Sequence[Sequence[int]], limited: Collection[int] = ()
) -> None:
    """Takes the given ids out of each row; in the `limited` rows not all ids were allowed.

    If that would leave a row nothing, it keeps them: no request may stop the engine.
    """
    vocab_size = logits.shape[-1]
    # A stop id may lie outside of the vocabulary; it is never drawn then anyway.
    known = {
        row: [token_id for token_id in ids if token_id < vocab_size]
        for row, ids in enumerate(token_ids)
        if ids
    }
    if not known:
        return
    rows, columns = _cells(known, logits.device)
    before = logits[rows, columns]
    logits[rows, columns] = NEVER
    endangered = [row for row, ids in known.items() if row in limited or len(ids) >= vocab_size]
    if endangered:
        emptied = logits.new_zeros(len(token_ids), dtype=torch.bool)
        # Of all rows: taking some of them would copy them, which costs more.
        emptied[endangered] = logits.amax(-1)[endangered] == NEVER
        logits[rows, columns] = torch.where(emptied[rows], before, NEVER)


def _add_bias(logits: Tensor, altered: _Rows) -> None:
    biases = {row: b for row, s in altered.items() if (b := s.sampling_params.logit_bias)}
    if biases:
        ids = {row: [token_id for token_id, _ in pairs] for row, pairs in biases.items()}
        rows, columns = _cells(ids, logits.device)
        values = [bias for pairs in biases.values() for _, bias in pairs]
        logits[rows, columns] += logits.new_tensor(values)


def _penalise_repetition(logits: Tensor, counts: _Counts, altered: _Rows) -> None:
    """Divides the positive and multiplies the negative logits of the ids in prompt and output.

    Keskar et al., "CTRL", 2019, section 4.1; here as in vLLM and transformers.
    """
    penalties = {row: altered[row].sampling_params.repetition_penalty for row in counts}
    seen = {
        row: np.concatenate(counts[row].seen(altered[row].token_history))
        for row, penalty in penalties.items()
        if penalty != 1.0
    }
    if seen:
        cells = _flat_cells(seen, logits)
        strength = _for_cells(seen, penalties, logits)
        flat = logits.view(-1)
        values = flat[cells]
        values = torch.where(values > 0, values / strength, values * strength)
        # A very small penalty takes a logit out of the range of float32.
        flat[cells] = values.clamp_(max=_FLOAT32_MAX)


def _penalise_frequency_and_presence(logits: Tensor, counts: _Counts, altered: _Rows) -> None:
    """As in OpenAI's API: logit -= count * frequency_penalty + (count > 0) * presence_penalty.

    The output alone is counted.
    """
    params = {row: altered[row].sampling_params for row in counts}
    outputs = {
        row: counts[row].output()
        for row in counts
        if params[row].frequency_penalty or params[row].presence_penalty
    }
    if outputs:
        ids = {row: own for row, (own, _) in outputs.items()}
        cells = _flat_cells(ids, logits)
        occurrences = np.concatenate([own for _, own in outputs.values()])
        frequency = {row: params[row].frequency_penalty for row in outputs}
        presence = {row: params[row].presence_penalty for row in outputs}
        found = torch.from_numpy(occurrences).to(logits.device)
        logits.view(-1)[cells] -= found * _for_cells(ids, frequency, logits) + _for_cells(
            ids, presence, logits
        )


def _cells(token_ids: Mapping[int, Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Row and column of each id of each row, both [ids]."""
    lengths = [len(ids) for ids in token_ids.values()]
    columns = np.fromiter(
        chain.from_iterable(token_ids.values()), dtype=np.int64, count=sum(lengths)
    )
    rows = np.repeat(np.array(list(token_ids), dtype=np.int64), lengths)
    packed = torch.from_numpy(np.stack((rows, columns))).to(device)
    return packed[0], packed[1]


def _flat_cells(token_ids: Mapping[int, Ids], logits: Tensor) -> Tensor:
    """The indexes of the ids of each row in all the logits as one row, [ids]."""
    vocab_size = logits.shape[-1]
    cells = np.empty(sum(map(len, token_ids.values())), dtype=np.int64)
    start = 0
    for row, ids in token_ids.items():
        end = start + len(ids)
        np.add(ids, row * vocab_size, out=cells[start:end])
        start = end
    return torch.from_numpy(cells).to(logits.device)


def _for_cells(token_ids: Mapping[int, Ids], values: Mapping[int, float], like: Tensor) -> Tensor:
    """Each row's value for each of its ids, [ids], of the type of `like`."""
    lengths = [len(ids) for ids in token_ids.values()]
    by_row = np.array([values[row] for row in token_ids], dtype=np.float32)
    return torch.from_numpy(np.repeat(by_row, lengths)).to(like)
