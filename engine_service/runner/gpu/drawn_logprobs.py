"""Log-probabilities of drawn tokens on a GPU, for the rows that request them."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from engine_service.runner.device_copy import to_device
from engine_service.runner.gpu.drawing import Draw
from engine_service.runner.sampling.logprobs import position_logprobs
from folovllm.logprobs import PositionLogprobs


def raw_logits(logits: Tensor, draws: Sequence[Draw]) -> Tensor | None:
    """A copy of the rows that request them, before anything changes them; None if none does."""
    rows = _requesting_rows(draws)
    if not rows:
        return None
    return logits[to_device(np.array(rows, dtype=np.int64), logits.device)]


def drawn_logprobs(
    raw: Tensor | None, draws: Sequence[Draw], drawing: Sequence[int], token_ids: Tensor
) -> dict[int, list[PositionLogprobs]]:
    """Those of `token_ids` [draws], by the index of the sequence `drawing` each.

    Waits for the tokens. Empty if one of them is -1, since the step fails then.
    """
    if raw is None:
        return {}
    rows = _requesting_rows(draws)
    drawn = token_ids.tolist()
    if any(drawn[row] < 0 for row in rows):
        return {}
    num_tops = [draws[row].sequence.sampling_params.logprobs or 0 for row in rows]
    found: dict[int, list[PositionLogprobs]] = {}
    logprobs = position_logprobs(raw, [[drawn[row]] for row in rows], num_tops)
    for row, (position,) in zip(rows, logprobs, strict=True):
        found.setdefault(drawing[row], []).append(position)
    return found


def _requesting_rows(draws: Sequence[Draw]) -> list[int]:
    return [
        row for row, each in enumerate(draws) if each.sequence.sampling_params.logprobs is not None
    ]
