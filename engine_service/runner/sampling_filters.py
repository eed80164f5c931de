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
# The most probable tokens that nearly always hold the mass of a top_p.
_LIKELY_ENOUGH = 1024


def top_k_candidates(logits: Tensor, top_ks: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The logits that are at least each row's k-th largest, and their ids, in vocabulary order.

    `logits` is [rows, vocab_size], 1 <= k <= vocab_size. Both results are [rows, most candidates];
    rows with fewer are filled with -inf and id 0.
    """
    ranks = torch.tensor(top_ks, device=logits.device)[:, None] - 1
    thresholds = logits.topk(max(top_ks), dim=-1).values.gather(-1, ranks)
    rows, ids = (logits >= thresholds).nonzero(as_tuple=True)
    counts = torch.bincount(rows, minlength=len(top_ks))
    columns = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    shape = (len(top_ks), int(counts.max()))
    values = logits.new_full(shape, NEVER)
    token_ids = ids.new_zeros(shape)
    values[rows, columns] = logits[rows, ids]
    token_ids[rows, columns] = ids
    return values, token_ids


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
    weights = (wide / divisors[:, None]).exp_()
    if any(min_ps):
        weights.masked_fill_(weights < weights.new_tensor(min_ps)[:, None], 0.0)
    return weights


def keep_top_p(weights: Tensor, top_ps: Sequence[float]) -> None:
    """Sets to 0, in place, what is less probable than the token at which the mass reaches top_p.

    Only the rows that have a top_p under 1 are sorted, and wholly only where the mass of the first
    `_LIKELY_ENOUGH` falls short.
    """
    rows = [row for row, top_p in enumerate(top_ps) if top_p < 1.0]
    if not rows:
        return
    own = weights[rows]
    mass = own.cumsum(-1, dtype=torch.float64)
    wanted = mass[:, -1:] * mass.new_tensor([top_ps[row] for row in rows])[:, None]
    ordered = own.topk(min(_LIKELY_ENOUGH, own.shape[-1]), dim=-1).values
    mass = ordered.cumsum(-1, dtype=torch.float64)
    if bool((mass[:, -1:] < wanted).any()):
        ordered = own.sort(dim=-1, descending=True).values
        mass = ordered.cumsum(-1, dtype=torch.float64)
    # The first token whose mass, with all before it, is enough; in this order the whole mass may
    # be rounded to just under what is wanted.
    last = torch.searchsorted(mass, wanted).clamp_(max=mass.shape[-1] - 1)
    weights[rows] = own.masked_fill(own < ordered.gather(-1, last), 0.0)


def inverse_cdf(weights: Tensor, uniforms: Tensor) -> Tensor:
    """For each number in [0, 1) the first column whose cumulated weight is over that share.

    [rows, columns] and [rows, numbers] float64 -> [rows, numbers]. The weight of the column found
    is over 0. Rounding could take a share to the total itself, which no column is over; then the
    number just below is meant.
    """
    cumulated = weights.cumsum(-1, dtype=torch.float64)
    total = cumulated[:, -1:]
    below = torch.nextafter(total, torch.zeros_like(total))
    return torch.searchsorted(cumulated, torch.minimum(uniforms * total, below), right=True)
