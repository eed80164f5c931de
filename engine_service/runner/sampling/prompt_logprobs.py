"""Log-probabilities of prompts' tokens, from the hidden states of a step."""

from collections.abc import Sequence

import torch
from torch import Tensor

from engine_service.core.outputs import ScheduledSequence
from engine_service.models.causal_model import CausalModel
from engine_service.runner.sampling.logprobs import position_logprobs
from folovllm.outputs import PositionLogprobs

# Logits of prompts that are computed at once: 64 MiB in float32.
_MOST_LOGITS = 2**24


def prompt_logprobs(
    model: CausalModel,
    hidden: Tensor,
    first_rows: Sequence[int],
    scheduled: Sequence[ScheduledSequence],
) -> dict[int, list[PositionLogprobs]]:
    """Those of the prompts' next tokens that are wanted, by the sequences' places.

    `hidden` is [T, hidden_size], and `first_rows` says where each sequence's tokens start in it.
    All sequences' rows go together, in pieces, since the logits of long prompts would take more
    memory than all else.
    """
    wanted = [
        (place, first_rows[place] - sequence.num_computed_tokens + position, position)
        for place, sequence in enumerate(scheduled)
        for position in sequence.prompt_logprob_positions
    ]
    found: dict[int, list[PositionLogprobs]] = {}
    size = max(1, _MOST_LOGITS // model.config.vocab_size)
    for start in range(0, len(wanted), size):
        piece = wanted[start : start + size]
        rows = torch.tensor([row for _, row, _ in piece], device=hidden.device)
        following = [[scheduled[place].token_history[at + 1]] for place, _, at in piece]
        num_tops = [scheduled[place].sampling_params.prompt_logprobs or 0 for place, *_ in piece]
        logprobs = position_logprobs(model.compute_logits(hidden, rows), following, num_tops)
        for (place, *_), (position,) in zip(piece, logprobs, strict=True):
            found.setdefault(place, []).append(position)
    return found
