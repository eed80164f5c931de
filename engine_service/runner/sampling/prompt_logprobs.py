"""Log-probabilities of prompts' tokens, from the hidden states of a step."""

from collections.abc import Sequence

import torch
from torch import Tensor

from engine_service.core.outputs import ScheduledSequence
from engine_service.models.causal_model import CausalModel
from engine_service.runner.sampling.logprobs import position_logprobs
from engine_service.runner.sampling.not_finite import not_finite
from folovllm.logprobs import PositionLogprobs

# Logits of prompts that are computed at once: 64 MiB in float32.
_MAX_LOGITS = 2**24


def prompt_logprobs(
    model: CausalModel,
    hidden: Tensor,
    first_rows: Sequence[int],
    scheduled: Sequence[ScheduledSequence],
) -> tuple[dict[int, list[PositionLogprobs]], dict[int, Exception]]:
    """Those of the prompts' next tokens that are requested, by the indexes of their sequences.

    Beside them the errors of those whose logits are not finite.

    `hidden` is [T, hidden_size], and `first_rows` says where each sequence's tokens start in it.
    All sequences' rows go together, in pieces, since the logits of long prompts would take more
    memory than everything else.
    """
    asked = [
        (i, first_rows[i] - sequence.num_computed_tokens + position, position)
        for i, sequence in enumerate(scheduled)
        for position in sequence.prompt_logprob_positions
    ]
    found: dict[int, list[PositionLogprobs]] = {}
    failures: dict[int, Exception] = {}
    size = max(1, _MAX_LOGITS // model.config.vocab_size)
    for start in range(0, len(asked), size):
        piece = asked[start : start + size]
        rows = torch.tensor([row for _, row, _ in piece], device=hidden.device)
        following = [[scheduled[i].token_history[position + 1]] for i, _, position in piece]
        num_tops = [scheduled[i].sampling_params.prompt_logprobs or 0 for i, *_ in piece]
        logprobs = position_logprobs(model.compute_logits(hidden, rows), following, num_tops)
        for (i, _, position), own in zip(piece, logprobs, strict=True):
            if own is None:
                failures[i] = not_finite(position)
            else:
                found.setdefault(i, []).extend(own)
    return found, failures
