"""What parameters make of a row's logits before the temperature; the sampler tells the order.

Everything is computed in float32 and from a row's own values alone, so that a row gets the same
logits in any batch. Rows that ask for nothing cost nothing but the question.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from engine_service.core.outputs import ScheduledSequence
from engine_service.runner.sampling.filters import NEVER

_LARGEST = torch.finfo(torch.float32).max
NO_MASKS: Mapping[int, Tensor] = {}


def process_logits(
    logits: Tensor,
    sequences: Sequence[ScheduledSequence],
    grammar_masks: Mapping[int, Tensor] = NO_MASKS,
) -> Tensor:
    """The logits to draw from, [len(sequences), vocab_size].

    They are `logits` itself, changed in place, or a copy in float32 where arithmetic is asked for.
    `grammar_masks` has for some rows the ids that may be drawn, bool [vocab_size].
    """
    altered = [row for row, s in enumerate(sequences) if s.sampling_params.alters_logits]
    limited = list(grammar_masks)
    if altered:
        logits = logits.float()
        limited += _allow(logits, sequences, altered, grammar_masks)
    for row, mask in grammar_masks.items():
        logits[row].masked_fill_(~mask.to(logits.device), NEVER)
    forbid(logits, [sequence.forbidden_token_ids for sequence in sequences], limited)
    if altered:
        _add_bias(logits, sequences, altered)
        _penalise(logits, sequences, altered)
    return logits


def allow(logits: Tensor, rows: Sequence[int], token_ids: Sequence[Sequence[int]]) -> None:
    """Takes every id out of these rows but those given for each."""
    places, columns = _indexes(rows, token_ids, logits.device)
    kept = logits[places, columns]
    logits[torch.tensor(rows, device=logits.device)] = NEVER
    logits[places, columns] = kept


def forbid(
    logits: Tensor, token_ids: Sequence[Sequence[int]], limited: Collection[int] = ()
) -> None:
    """Takes the given ids out of each row; `limited` are the rows where not all ids were allowed.

    A row that would have nothing left, since what is allowed there is all forbidden, keeps them: a
    request must not be able to stop the engine.
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
    places, columns = _indexes(list(known), list(known.values()), logits.device)
    before = logits[places, columns]
    logits[places, columns] = NEVER
    endangered = [row for row, ids in known.items() if row in limited or len(ids) >= vocab_size]
    if endangered:
        emptied = logits.new_zeros(len(token_ids), dtype=torch.bool)
        # Of all rows: taking some of them would copy them, which costs more.
        emptied[endangered] = logits.amax(-1)[endangered] == NEVER
        logits[places, columns] = torch.where(emptied[places], before, NEVER)


def add_bias(
    logits: Tensor, rows: Sequence[int], biases: Sequence[Sequence[tuple[int, float]]]
) -> None:
    """Adds to single logits of these rows: (token id, bias) pairs for each, no id twice."""
    places, columns = _indexes(rows, [[i for i, _ in pairs] for pairs in biases], logits.device)
    values = [bias for pairs in biases for _, bias in pairs]
    logits[places, columns] += logits.new_tensor(values)


def penalise_repetition(
    logits: Tensor,
    rows: Sequence[int],
    token_ids: Sequence[Sequence[int]],
    penalties: Sequence[float],
) -> None:
    """Divides the positive and multiplies the negative logits of the given ids, once for each id.

    Keskar et al., "CTRL", 2019, section 4.1; here as in vLLM and transformers.
    """
    places, columns, _ = _counts(rows, token_ids, logits)
    strength = _by_row(logits, rows, penalties)[places]
    values = logits[places, columns]
    values = torch.where(values > 0, values / strength, values * strength)
    # A very small penalty takes a logit out of the range of float32.
    logits[places, columns] = values.clamp_(max=_LARGEST)


def penalise_frequency_and_presence(
    logits: Tensor,
    rows: Sequence[int],
    token_ids: Sequence[Sequence[int]],
    frequency_penalties: Sequence[float],
    presence_penalties: Sequence[float],
) -> None:
    """Takes frequency_penalty for each time an id is given, and presence_penalty once.

    As in OpenAI's API: logit -= count * frequency_penalty + (count > 0) * presence_penalty.
    """
    places, columns, counts = _counts(rows, token_ids, logits)
    frequency = _by_row(logits, rows, frequency_penalties)[places]
    presence = _by_row(logits, rows, presence_penalties)[places]
    logits[places, columns] -= counts * frequency + presence


def _allow(
    logits: Tensor,
    sequences: Sequence[ScheduledSequence],
    rows: Iterable[int],
    grammar_masks: Mapping[int, Tensor],
) -> list[int]:
    """Leaves what may be drawn at all; the rows where that is not every id."""
    params = {row: sequences[row].sampling_params for row in rows}
    limited = [
        row
        for row, p in params.items()
        if p.allowed_token_ids
        and (row not in grammar_masks or _any_allowed(p.allowed_token_ids, grammar_masks[row]))
    ]
    if limited:
        allow(logits, limited, [params[row].allowed_token_ids for row in limited])
    return limited


def _any_allowed(token_ids: tuple[int, ...], mask: Tensor) -> bool:
    """Whether a grammar's mask has any of the ids."""
    return bool(mask[list(token_ids)].any())


def _add_bias(logits: Tensor, sequences: Sequence[ScheduledSequence], rows: Iterable[int]) -> None:
    params = {row: sequences[row].sampling_params for row in rows}
    biased = [row for row, p in params.items() if p.logit_bias]
    if biased:
        add_bias(logits, biased, [params[row].logit_bias for row in biased])


def _penalise(logits: Tensor, sequences: Sequence[ScheduledSequence], rows: Iterable[int]) -> None:
    params = {row: sequences[row].sampling_params for row in rows}
    repeated = [row for row, p in params.items() if p.repetition_penalty != 1.0]
    if repeated:
        penalise_repetition(
            logits,
            repeated,
            [sequences[row].token_history for row in repeated],
            [params[row].repetition_penalty for row in repeated],
        )
    counted = [
        row
        for row, p in params.items()
        if (p.frequency_penalty or p.presence_penalty) and _has_output(sequences[row])
    ]
    if counted:
        penalise_frequency_and_presence(
            logits,
            counted,
            [sequences[row].token_history[sequences[row].num_prompt_tokens :] for row in counted],
            [params[row].frequency_penalty for row in counted],
            [params[row].presence_penalty for row in counted],
        )


def _has_output(sequence: ScheduledSequence) -> bool:
    return len(sequence.token_history) > sequence.num_prompt_tokens


def _indexes(
    rows: Sequence[int], token_ids: Sequence[Sequence[int]], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Row and column of each id of each row, both [ids]."""
    lengths = [len(ids) for ids in token_ids]
    columns = np.fromiter(chain.from_iterable(token_ids), dtype=np.int64, count=sum(lengths))
    places = np.repeat(np.array(rows, dtype=np.int64), lengths)
    packed = torch.from_numpy(np.stack((places, columns))).to(device)
    return packed[0], packed[1]


def _counts(
    rows: Sequence[int], token_ids: Sequence[Sequence[int]], logits: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Row, column and count of each distinct id of each row, all [distinct ids]."""
    places, columns = _indexes(rows, token_ids, logits.device)
    vocab_size = logits.shape[-1]
    cells, counts = torch.unique(places * vocab_size + columns, return_counts=True)
    return cells // vocab_size, cells % vocab_size, counts


def _by_row(logits: Tensor, rows: Sequence[int], values: Sequence[float]) -> Tensor:
    """A value for every row of the logits, 0 for those not named, [rows of logits]."""
    spread = [0.0] * len(logits)
    for row, value in zip(rows, values, strict=True):
        spread[row] = value
    return logits.new_tensor(spread)
