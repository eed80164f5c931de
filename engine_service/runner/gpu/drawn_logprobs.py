"""Log-probabilities of drawn tokens on a GPU, for the rows that request them."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from engine_service.runner.device_copy import to_device
from engine_service.runner.gpu.drawing import Draw
from engine_service.runner.sampling.logprobs import position_logprobs
from engine_service.runner.sampling.not_finite import not_finite
from folovllm.logprobs import PositionLogprobs


def raw_logits(logits: Tensor, draws: Sequence[Draw]) -> Tensor | None:
    """A copy of the rows that request them, before anything changes them; None if none does."""
    rows = _requesting_rows(draws)
    if not rows:
        return None
    return logits[to_device(np.array(rows, dtype=np.int64), logits.device)]


def drawn_logprobs(
    raw: Tensor | None, draws: Sequence[Draw], drawing: Sequence[int], token_ids: Tensor
) -> tuple[dict[int, list[PositionLogprobs]], dict[int, Exception]]:
    """Those of `token_ids` [draws], by the index of the sequence `drawing` each, and failures.

    Waits for the tokens. Rows whose logits are not finite fail.
    """
    if raw is None:
        return {}, {}
    rows = _requesting_rows(draws)
    drawn = [max(token_id, 0) for token_id in token_ids.tolist()]
    num_tops = [draws[row].sequence.sampling_params.logprobs or 0 for row in rows]
    found: dict[int, list[PositionLogprobs]] = {}
    logprobs = position_logprobs(raw, [[drawn[row]] for row in rows], num_tops)
    failures: dict[int, Exception] = {}
    for row, positions in zip(rows, logprobs, strict=True):
        if positions is None:
            failures[drawing[row]] = not_finite(draws[row].sequence.num_tokens)
        else:
            found.setdefault(drawing[row], []).extend(positions)
    return found, failures


def _requesting_rows(draws: Sequence[Draw]) -> list[int]:
    return [
        row for row, each in enumerate(draws) if each.sequence.sampling_params.logprobs is not None
    ]
