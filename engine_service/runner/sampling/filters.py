"""Which tokens of a row may be drawn, and with what weight.

All filters keep or drop equal values together, so what they keep depends on the row's values alone,
never on the rest of its batch or on how a sort breaks ties.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from engine_service.runner.sampling.ordering import kth_largest, sorted_falling
from folovllm.sampling_params import SamplingParams

NEVER = float("-inf")
# A smaller one is 0 in float32; the draw is the most probable token long before.
_MIN_TEMPERATURE = 1e-30
# Weights under this are as good as 0, the most probable token's being 1.
_MIN_WEIGHT = torch.finfo(torch.float32).smallest_normal
# So many of the most probable tokens nearly always hold the mass of a top_p.
_LIKELY_ENOUGH = 1024
# So many candidates of a top_k are taken out of their row; with more that is slower.
_MAX_CANDIDATES = 2048
# Values of which only the maximum is looked at first.
_BLOCK = 64


def has_candidates(params: SamplingParams, vocab_size: int) -> bool:
    """Whether top_k leaves so few tokens that they are taken out of their row."""
    return 0 < params.top_k < vocab_size and params.top_k <= _MAX_CANDIDATES


def filtered_weights(
    logits: Tensor, params: Sequence[SamplingParams]
) -> tuple[Tensor, Tensor | None]:
    """The weight of each token that the filters keep, and 0 of others: [rows, columns], float32.

    `logits` is [rows, vocab_size], each row with a finite value; no row is greedy, and all of them
    have candidates or none. If they do, those are the columns, and their ids come second.
    """
    token_ids = None
    if has_candidates(params[0], logits.shape[-1]):
        logits, token_ids = top_k_candidates(logits, [p.top_k for p in params])
    else:
        logits = _keep_top_k(logits, [p.top_k for p in params])
    weights = _relative_weights(logits, [p.temperature for p in params])
    if any(p.min_p for p in params):
        _drop_below(weights, weights.new_tensor([p.min_p for p in params])[:, None])
    _keep_top_p(weights, [p.top_p for p in params])
    return weights, token_ids


def _keep_top_k(logits: Tensor, top_ks: Sequence[int]) -> Tensor:
    """The logits, with -inf for what is under the k-th largest of its row."""
    vocab_size = logits.shape[-1]
    if not any(0 < k < vocab_size for k in top_ks):
        return logits
    logits = logits.float()
    thresholds = kth_largest(logits, [k if 0 < k < vocab_size else vocab_size for k in top_ks])
    return torch.where(logits >= thresholds, logits, NEVER)


def top_k_candidates(
    values: Tensor, top_ks: Sequence[int], min_value: float = NEVER
) -> tuple[Tensor, Tensor]:
    """The values that are at least each row's k-th largest, and their ids, in vocabulary order.

    `values` is [rows, vocab_size], k >= 1; -inf and what is under `min_value` is no candidate. Both
    results are [rows, max candidates]; rows with fewer are filled with -inf and id 0.
    """
    if values.shape[-1] % _BLOCK or values.shape[-1] < _BLOCK * max(top_ks):
        return _at_least(values, _kth_largest(values, top_ks, min_value))
    blocks = values.reshape(len(values), -1, _BLOCK)
    maxima = blocks.amax(-1)
    # k blocks have a value of at least this, so the k-th largest value is no smaller.
    floors = _kth_largest(maxima, top_ks, min_value)
    rows, indexes = (maxima >= floors).nonzero(as_tuple=True)
    found = blocks[rows, indexes]
    picked, offsets = (found >= floors[rows]).nonzero(as_tuple=True)
    likely, ids = _padded(
        rows[picked], found[picked, offsets], indexes[picked] * _BLOCK + offsets, len(values)
    )
    candidates, columns = _at_least(likely, _kth_largest(likely, top_ks, min_value))
    return candidates, ids.gather(-1, columns).masked_fill_(candidates == NEVER, 0)


def _kth_largest(values: Tensor, top_ks: Sequence[int], min_value: float) -> Tensor:
    """Each row's k-th largest value, or its minimum; finite, at least `min_value`; [rows, 1]."""
    ks = [min(k, values.shape[-1]) for k in top_ks]
    ranks = torch.tensor(ks, device=values.device)[:, None] - 1
    kth = values.topk(max(ks), dim=-1).values.gather(-1, ranks)
    return kth.clamp_(min=max(min_value, torch.finfo(values.dtype).min))


def _at_least(values: Tensor, thresholds: Tensor) -> tuple[Tensor, Tensor]:
    """The values that reach their row's threshold, and their columns, as `_padded` has them."""
    rows, columns = (values >= thresholds).nonzero(as_tuple=True)
    return _padded(rows, values[rows, columns], columns, len(values))


def _padded(rows: Tensor, values: Tensor, ids: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    """Values and ids, given with their ascending rows, as [num_rows, max of a row] each."""
    counts = torch.bincount(rows, minlength=num_rows)
    columns = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    shape = (num_rows, int(counts.max()))
    padded_values = values.new_full(shape, NEVER)
    padded_ids = ids.new_zeros(shape)
    padded_values[rows, columns] = values
    padded_ids[rows, columns] = ids
    return padded_values, padded_ids


def _relative_weights(logits: Tensor, temperatures: Sequence[float]) -> Tensor:
    """Probabilities relative to each row's most probable token's, in float32."""
    wide = logits.float()
    # The maximum becomes 0 first, so that no temperature overflows.
    wide = wide - wide.amax(-1, keepdim=True)
    divisors = wide.new_tensor([max(t, _MIN_TEMPERATURE) for t in temperatures])
    return wide.div_(divisors[:, None]).exp_()


def _keep_top_p(weights: Tensor, top_ps: Sequence[float]) -> None:
    """Sets to 0, in place, what is less probable than the token at which the mass reaches top_p.

    Only the rows whose top_p is under 1 are sorted, and wholly only if the mass of the first
    `_LIKELY_ENOUGH`, whose weights are at most 1, falls short.
    """
    rows = [row for row, top_p in enumerate(top_ps) if top_p < 1.0]
    if not rows:
        return
    own = weights if len(rows) == len(weights) else weights[rows]
    mass = _cumulative(own)
    goal = mass[:, -1:] * mass.new_tensor([top_ps[row] for row in rows])[:, None]
    enough = bool((goal <= _LIKELY_ENOUGH).all())
    if enough:
        likely, _ = top_k_candidates(own, [_LIKELY_ENOUGH] * len(rows), min_value=_MIN_WEIGHT)
        ordered = likely.clamp_(min=0.0).sort(dim=-1, descending=True).values
        mass = _cumulative(ordered)
        enough = not bool((mass[:, -1:] < goal).any())
    if not enough:
        ordered = sorted_falling(own)
        mass = _cumulative(ordered)
    # The first token whose mass, with all before it, is enough; in this order the whole mass may
    # be rounded to just under the goal.
    last = torch.searchsorted(mass, goal).clamp_(max=mass.shape[-1] - 1)
    _drop_below(own, ordered.gather(-1, last))
    if own is not weights:
        weights[rows] = own


def _drop_below(weights: Tensor, thresholds: Tensor) -> None:
    """Sets to 0, in place, what is under its row's threshold.

    The product with a float32 mask is many times as fast as filling by a bool one.
    """
    weights.mul_(torch.ge(weights, thresholds, out=torch.empty_like(weights)))


def inverse_cdf(weights: Tensor, uniforms: Tensor) -> Tensor:
    """For each number in [0, 1) the first column whose cumulative weight is over that share.

    [rows, columns] and [rows, numbers] float64 -> [rows, numbers]. The weight of the column found
    is over 0. Rounding could take a share to the total itself, which no column exceeds; the number
    just below is used then.
    """
    cumulative = _cumulative(weights)
    total = cumulative[:, -1:]
    below = torch.nextafter(total, torch.zeros_like(total))
    return torch.searchsorted(cumulative, torch.minimum(uniforms * total, below), right=True)


def _cumulative(weights: Tensor) -> Tensor:
    """The sums of each row's weights up to each column, in float64."""
    # In place, so that only one wide copy is made.
    return weights.double().cumsum_(-1)
