"""Which tokens of a row may be drawn, and with what weight.

All filters keep or drop equal values together, so what they keep depends on a row's own values
alone, never on what shares its batch or on how a sort breaks ties.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

NEVER = float("-inf")
# A smaller one is 0 in float32; the draw is the most probable token long before.
_LEAST_TEMPERATURE = 1e-30
# Weights under this are as good as 0 where the most probable token's is 1.
_SMALLEST = torch.finfo(torch.float32).smallest_normal
# The most probable tokens that nearly always hold the mass of a top_p.
_LIKELY_ENOUGH = 1024
# Values that are first looked at by their largest alone.
_BLOCK = 64


def top_k_candidates(
    values: Tensor, top_ks: Sequence[int], least: float = NEVER
) -> tuple[Tensor, Tensor]:
    """The values that are at least each row's k-th largest, and their ids, in vocabulary order.

    `values` is [rows, vocab_size], k >= 1; -inf and what is under `least` is no candidate. Both
    results are [rows, most candidates]; rows with fewer are filled with -inf and id 0.
    """
    if values.shape[-1] % _BLOCK or values.shape[-1] < _BLOCK * max(top_ks):
        return _at_least(values, _kth_largest(values, top_ks, least))
    blocks = values.reshape(len(values), -1, _BLOCK)
    maxima = blocks.amax(-1)
    # k blocks have a value of at least this, so the k-th largest value is no smaller.
    floors = _kth_largest(maxima, top_ks, least)
    rows, places = (maxima >= floors).nonzero(as_tuple=True)
    found = blocks[rows, places]
    picked, offsets = (found >= floors[rows]).nonzero(as_tuple=True)
    likely, ids = _padded(
        rows[picked], found[picked, offsets], places[picked] * _BLOCK + offsets, len(values)
    )
    candidates, columns = _at_least(likely, _kth_largest(likely, top_ks, least))
    return candidates, ids.gather(-1, columns).masked_fill_(candidates == NEVER, 0)


def _kth_largest(values: Tensor, top_ks: Sequence[int], least: float) -> Tensor:
    """Each row's k-th largest value, or its smallest; at least `least`, and finite; [rows, 1]."""
    ks = [min(k, values.shape[-1]) for k in top_ks]
    ranks = torch.tensor(ks, device=values.device)[:, None] - 1
    largest = values.topk(max(ks), dim=-1).values.gather(-1, ranks)
    return largest.clamp_(min=max(least, torch.finfo(values.dtype).min))


def _at_least(values: Tensor, thresholds: Tensor) -> tuple[Tensor, Tensor]:
    """The values that reach their row's threshold, and their columns, as `_padded` has them."""
    rows, columns = (values >= thresholds).nonzero(as_tuple=True)
    return _padded(rows, values[rows, columns], columns, len(values))


def _padded(rows: Tensor, values: Tensor, ids: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    """Values and ids, given with their ascending rows, as [num_rows, most of a row] each."""
    counts = torch.bincount(rows, minlength=num_rows)
    columns = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    shape = (num_rows, int(counts.max()))
    padded_values = values.new_full(shape, NEVER)
    padded_ids = ids.new_zeros(shape)
    padded_values[rows, columns] = values
    padded_ids[rows, columns] = ids
    return padded_values, padded_ids


def relative_weights(
    logits: Tensor, temperatures: Sequence[float], min_ps: Sequence[float]
) -> Tensor:
    """Probabilities relative to each row's most probable token's, in float32.

    Weights under min_p become 0. Every row of [rows, candidates] needs one finite value; the
    temperatures are over 0.
    """
    wide = logits.float()
    # The largest becomes 0 first, so that no temperature overflows.
    wide = wide - wide.amax(-1, keepdim=True)
    divisors = wide.new_tensor([max(t, _LEAST_TEMPERATURE) for t in temperatures])
    weights = wide.div_(divisors[:, None]).exp_()
    if any(min_ps):
        _drop_below(weights, weights.new_tensor(min_ps)[:, None])
    return weights


def keep_top_p(weights: Tensor, top_ps: Sequence[float]) -> None:
    """Sets to 0, in place, what is less probable than the token at which the mass reaches top_p.

    Only the rows that have a top_p under 1 are sorted, and wholly only where the mass of the first
    `_LIKELY_ENOUGH` falls short.
    """
    rows = [row for row, top_p in enumerate(top_ps) if top_p < 1.0]
    if not rows:
        return
    own = weights if len(rows) == len(weights) else weights[rows]
    mass = _cumulated(own)
    wanted = mass[:, -1:] * mass.new_tensor([top_ps[row] for row in rows])[:, None]
    likely, _ = top_k_candidates(own, [_LIKELY_ENOUGH] * len(rows), least=_SMALLEST)
    ordered = likely.clamp_(min=0.0).sort(dim=-1, descending=True).values
    mass = _cumulated(ordered)
    if bool((mass[:, -1:] < wanted).any()):
        ordered = own.sort(dim=-1, descending=True).values
        mass = _cumulated(ordered)
    # The first token whose mass, with all before it, is enough; in this order the whole mass may
    # be rounded to just under what is wanted.
    last = torch.searchsorted(mass, wanted).clamp_(max=mass.shape[-1] - 1)
    _drop_below(own, ordered.gather(-1, last))
    if own is not weights:
        weights[rows] = own


def _drop_below(weights: Tensor, thresholds: Tensor) -> None:
    """Sets to 0, in place, what is under its row's threshold.

    The product with a float32 mask is many times as fast as filling by a bool one.
    """
    weights.mul_(torch.ge(weights, thresholds, out=torch.empty_like(weights)))


def inverse_cdf(weights: Tensor, uniforms: Tensor) -> Tensor:
    """For each number in [0, 1) the first column whose cumulated weight is over that share.

    [rows, columns] and [rows, numbers] float64 -> [rows, numbers]. The weight of the column found
    is over 0. Rounding could take a share to the total itself, which no column is over; then the
    number just below is meant.
    """
    cumulated = _cumulated(weights)
    total = cumulated[:, -1:]
    below = torch.nextafter(total, torch.zeros_like(total))
    return torch.searchsorted(cumulated, torch.minimum(uniforms * total, below), right=True)


def _cumulated(weights: Tensor) -> Tensor:
    """The sums of each row's weights up to each column, in float64."""
    # In place, so that only one wide copy is made.
    return weights.double().cumsum_(-1)
