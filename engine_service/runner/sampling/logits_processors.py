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

_FLOAT32_MAX = torch.finfo(torch.float32).max
NO_MASKS: Mapping[int, Tensor] = {}
_Rows = Mapping[int, ScheduledSequence]


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
        logits = logits.float()
        limited += _allow(logits, altered, grammar_masks)
    for row, mask in grammar_masks.items():
        logits[row].masked_fill_(~mask.to(logits.device), NEVER)
    _forbid(logits, [sequence.forbidden_token_ids for sequence in sequences], limited)
    if altered:
        _add_bias(logits, altered)
        _penalise_repetition(logits, altered)
        _penalise_frequency_and_presence(logits, altered)
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


def _penalise_repetition(logits: Tensor, altered: _Rows) -> None:
    """Divides the positive and multiplies the negative logits of the ids in prompt and output.

    Keskar et al., "CTRL", 2019, section 4.1; here as in vLLM and transformers.
    """
    penalties = {row: s.sampling_params.repetition_penalty for row, s in altered.items()}
    penalties = {row: penalty for row, penalty in penalties.items() if penalty != 1.0}
    if penalties:
        history = {row: altered[row].token_history for row in penalties}
        rows, columns, _ = _counts(history, logits)
        strength = _by_row(logits, penalties)[rows]
        values = logits[rows, columns]
        values = torch.where(values > 0, values / strength, values * strength)
        # A very small penalty takes a logit out of the range of float32.
        logits[rows, columns] = values.clamp_(max=_FLOAT32_MAX)


def _penalise_frequency_and_presence(logits: Tensor, altered: _Rows) -> None:
    """As in OpenAI's API: logit -= count * frequency_penalty + (count > 0) * presence_penalty.

    The output alone is counted.
    """
    params = {row: sequence.sampling_params for row, sequence in altered.items()}
    outputs = {
        row: sequence.token_history[sequence.num_prompt_tokens :]
        for row, sequence in altered.items()
        if (params[row].frequency_penalty or params[row].presence_penalty)
        and len(sequence.token_history) > sequence.num_prompt_tokens
    }
    if outputs:
        rows, columns, counts = _counts(outputs, logits)
        frequency = _by_row(logits, {row: params[row].frequency_penalty for row in outputs})[rows]
        presence = _by_row(logits, {row: params[row].presence_penalty for row in outputs})[rows]
        logits[rows, columns] -= counts * frequency + presence


def _cells(token_ids: Mapping[int, Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Row and column of each id of each row, both [ids]."""
    lengths = [len(ids) for ids in token_ids.values()]
    columns = np.fromiter(
        chain.from_iterable(token_ids.values()), dtype=np.int64, count=sum(lengths)
    )
    rows = np.repeat(np.array(list(token_ids), dtype=np.int64), lengths)
    packed = torch.from_numpy(np.stack((rows, columns))).to(device)
    return packed[0], packed[1]


def _counts(
    token_ids: Mapping[int, Sequence[int]], logits: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Row, column and count of each distinct id of each row, all [distinct ids]."""
    rows, columns = _cells(token_ids, logits.device)
    vocab_size = logits.shape[-1]
    cells, counts = torch.unique(rows * vocab_size + columns, return_counts=True)
    return cells // vocab_size, cells % vocab_size, counts


def _by_row(logits: Tensor, values: Mapping[int, float]) -> Tensor:
    """A value for every row of the logits, 0 for those not named, [rows of logits]."""
    return logits.new_tensor([values.get(row, 0.0) for row in range(len(logits))])
