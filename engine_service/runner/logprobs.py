"""Log-probabilities of tokens in the raw distribution: the model's logits before any processing.

Computed in float32, as log-softmax. A token's rank is 1 plus the number of tokens whose logit is
larger; tokens of equal logits share a rank and are listed by id.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from engine_service.runner.sampling_filters import top_k_candidates
from folovllm.errors import ServerError
from folovllm.outputs import Logprob, PositionLogprobs


def position_logprobs(
    logits: Tensor, token_ids: Sequence[Sequence[int]], num_tops: Sequence[int]
) -> list[list[PositionLogprobs]]:
    """For each row the log-probability of each of its token ids, with the row's best candidates.

    `logits` is [rows, vocab_size] in any floating type; `num_tops` says how many candidates each
    row gets. Raises ServerError where a row has no distribution, because of NaN or infinity.
    """
    wide = logits.float()
    totals = wide.logsumexp(dim=-1, keepdim=True)
    if not bool(totals.isfinite().all()):
        raise ServerError("the model's logits are not finite, so they have no log-probabilities")
    tops = _tops(wide, totals, num_tops)
    width = max(map(len, token_ids))
    padded = [[*ids, *[0] * (width - len(ids))] for ids in token_ids]
    columns = torch.tensor(padded, device=wide.device)
    values = wide.gather(-1, columns)
    # One column at a time: a row of n draws must not take n times the memory of its logits.
    ranks = torch.stack([(wide > value[:, None]).sum(-1) for value in values.unbind(-1)], dim=-1)
    logprobs = (values - totals).tolist()
    return [
        [
            PositionLogprobs(Logprob(token_id, logprob, rank + 1), top)
            for token_id, logprob, rank in zip(ids, row_logprobs, row_ranks, strict=False)
        ]
        for ids, row_logprobs, row_ranks, top in zip(
            token_ids, logprobs, ranks.tolist(), tops, strict=True
        )
    ]


def _tops(wide: Tensor, totals: Tensor, num_tops: Sequence[int]) -> list[tuple[Logprob, ...]]:
    """Each row's most probable tokens, best first, the lowest id of equals first."""
    most = min(max(num_tops), wide.shape[-1])
    if most == 0:
        return [() for _ in num_tops]
    values, token_ids = top_k_candidates(wide, [most] * len(num_tops))
    values, order = values.sort(dim=-1, descending=True, stable=True)
    token_ids = token_ids.gather(-1, order)[:, :most]
    values = values[:, :most]
    # In falling order the first of equals has their rank.
    ranks = 1 + torch.searchsorted(-values, -values)
    return [
        tuple(map(Logprob, row_ids[:count], row_logprobs, row_ranks))
        for row_ids, row_logprobs, row_ranks, count in zip(
            token_ids.tolist(), (values - totals).tolist(), ranks.tolist(), num_tops, strict=True
        )
    ]
