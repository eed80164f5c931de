"""Log-probabilities of tokens in the raw distribution: the model's logits before any processing.

Computed in float32, as log-softmax. A token's rank is 1 plus the number of tokens whose logit is
larger; tokens of equal logits share a rank and are listed by id.
"""

from collections.abc import Sequence
from itertools import islice

import torch
from torch import Tensor

from engine_service.runner.sampling.filters import NEVER, top_k_candidates
from engine_service.runner.sampling.ordering import sorted_falling
from folovllm.logprobs import Logprob, PositionLogprobs

# The ranks of more values are found in the sorted row.
_FEW = 16


def position_logprobs(
    logits: Tensor, token_ids: Sequence[Sequence[int]], num_tops: Sequence[int]
) -> list[list[PositionLogprobs] | None]:
    """For each row the log-probability of each of its token ids, with the row's best candidates.

    `logits` is [rows, vocab_size] in any floating type; `num_tops` says how many candidates each
    row gets. None for a row that has no distribution, because of NaN or infinity.
    """
    if not token_ids:
        return []
    width = max(1, *map(len, token_ids))
    columns = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids in token_ids])
    values = logits.gather(-1, columns.to(logits.device)).float()
    totals, ranks = _totals_and_ranks(logits, values, [*map(len, token_ids)])
    finite = totals.isfinite()[:, 0]
    if not bool(finite.all()):
        rows = finite.nonzero()[:, 0].tolist()
        found = position_logprobs(
            logits[rows], [token_ids[row] for row in rows], [num_tops[row] for row in rows]
        )
        of_row = dict(zip(rows, found, strict=True))
        return [of_row.get(row) for row in range(len(token_ids))]
    tops = _tops(logits, totals, num_tops)
    logprobs = (values - totals).tolist()
    return [
        [
            PositionLogprobs(Logprob(token_id, logprob, int(rank)), top)
            for token_id, logprob, rank in zip(ids, row_logprobs, row_ranks, strict=False)
        ]
        for ids, row_logprobs, row_ranks, top in zip(token_ids, logprobs, ranks, tops, strict=True)
    ]


def _totals_and_ranks(
    logits: Tensor, values: Tensor, num_values: Sequence[int]
) -> tuple[Tensor, list[list[float]]]:
    """The logsumexp of each row, [rows, 1], and the ranks of its first `num_values` values.

    Row by row, so that what one row needs stays in a processor's cache.
    """
    totals: list[Tensor] = []
    counts: list[Tensor] = []
    mask = torch.empty_like(logits[0], dtype=torch.float32)
    for row, row_values, count in zip(logits, values, num_values, strict=True):
        wide = row.float()
        totals.append(wide.logsumexp(dim=-1))
        counts.append(_num_larger(wide, row_values[:count], mask))
    ranks = iter((1 + torch.cat(counts)).tolist())
    return torch.stack(totals)[:, None], [list(islice(ranks, count)) for count in num_values]


def _num_larger(row: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """How many of a row are larger than each value, [values].

    A few are compared one by one: the sum of a float32 mask is many times as fast as that of a bool
    one, and exact up to 2**24.
    """
    if len(values) > _FEW:
        return torch.searchsorted(-sorted_falling(row[None])[0], -values)
    counts = [torch.gt(row, value, out=mask).sum() for value in values]
    return torch.stack(counts) if counts else values


def _tops(logits: Tensor, totals: Tensor, num_tops: Sequence[int]) -> list[tuple[Logprob, ...]]:
    """Each row's most probable tokens, best first, the lowest id of equals first.

    Tokens of probability 0 are not among them.
    """
    width = min(max(num_tops), logits.shape[-1])
    if width == 0:
        return [() for _ in num_tops]
    values, token_ids = top_k_candidates(logits, [width] * len(num_tops))
    values, order = values.float().sort(dim=-1, descending=True, stable=True)
    token_ids = token_ids.gather(-1, order)[:, :width]
    values = values[:, :width]
    # In falling order the first of equals has their rank.
    ranks = 1 + torch.searchsorted(-values, -values)
    return [
        tuple(
            Logprob(token_id, logprob, rank)
            for token_id, logprob, rank in zip(
                row_ids[:count], row_logprobs, row_ranks, strict=False
            )
            if logprob > NEVER
        )
        for row_ids, row_logprobs, row_ranks, count in zip(
            token_ids.tolist(), (values - totals).tolist(), ranks.tolist(), num_tops, strict=True
        )
    ]
