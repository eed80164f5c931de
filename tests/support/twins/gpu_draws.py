"""What a GPU's draws must be, from the sampler's own parts, and draws of given rows to compare."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine_service.core.outputs import ScheduledSequence
from engine_service.draw_fields import DRAW_PARAMS, DRAW_WORDS
from engine_service.kernels.gpu.sampling.sampler import Tiling, Workspace, draw, make_workspace
from engine_service.runner.gpu.drawing import Draw, pack_draws
from engine_service.runner.sampling.filters import filtered_weights, inverse_cdf
from engine_service.seeding import uniform
from folovllm.sampling_params import SamplingParams
from support.twins.gpu_twins import DEVICE, NAN

# Small enough that a vocabulary of some hundreds has several chunks and passes.
SMALL = Tiling(chunk=128, block=8, held=16, tile=32)
# A share of the mass that float32 sums may be wrong by.
_SLACK = 1e-5


@dataclass(frozen=True)
class Drawing:
    """How one row is drawn."""

    params: SamplingParams
    seed: int = 7
    index: int = 0
    position: int = 1

    @property
    def number(self) -> float:
        return uniform(self.seed, self.index, self.position)

    def words(self) -> Tensor:
        sequence = ScheduledSequence(
            0, (0,), self.position - 1, (), self.params, self.seed, sample_indexes=(self.index,)
        )
        return torch.from_numpy(pack_draws([Draw(sequence, self.index)]))


def drawing(seed: int = 7, index: int = 0, position: int = 1, **params: Any) -> Drawing:
    return Drawing(SamplingParams(**params), seed, index, position)


def draw_params(drawings: Sequence[Drawing]) -> Tensor:
    """Those of each, [words, 2 * drawings], every one after a column of poison."""
    poison = np.full(len(DRAW_WORDS), -(2**31), dtype=np.int32)
    for word, dtype in enumerate(DRAW_PARAMS.values(), start=-len(DRAW_PARAMS)):
        if dtype is np.float32:
            poison[word] = np.array([NAN], dtype=np.float32).view(np.int32)[0]
    columns = [part for each in drawings for part in (torch.tensor(poison)[:, None], each.words())]
    return torch.cat(columns, dim=1).to(DEVICE)


def poisoned_workspace(max_rows: int, vocab_size: int, tiling: Tiling = SMALL) -> Workspace:
    workspace = make_workspace(max_rows, vocab_size, DEVICE, tiling)
    for scratch in (
        *(workspace.chunk_max, workspace.chunk_sum),
        *(workspace.block_max, workspace.block_sum),
    ):
        scratch.fill_(NAN)
    workspace.block_ids.fill_(2**30)
    return workspace


def drawn(logits: Tensor, drawings: Sequence[Drawing], tiling: Tiling = SMALL) -> list[int]:
    """Draws for rows [R, V] whose parameters are stored in reverse, among unused ones of NaN."""
    params = draw_params(drawings[::-1])
    count = len(drawings)
    rows = torch.tensor([2 * (count - i) - 1 for i in range(count)], dtype=torch.int32)
    workspace = poisoned_workspace(count + 1, logits.shape[1], tiling)
    token_ids = torch.full((count + 1,), -9, dtype=torch.int32, device=DEVICE)
    # Behind the rows there is nothing to read.
    padded = torch.full((count + 1, logits.shape[1]), NAN, dtype=logits.dtype, device=DEVICE)
    padded[:-1] = logits.to(DEVICE)
    draw(padded[:-1], rows.to(DEVICE), params, workspace, token_ids[:-1])
    assert token_ids[-1] == -9
    return token_ids[:-1].tolist()


def expected_token(row: Tensor, params: SamplingParams, number: float) -> int:
    """The sampler's token for one row [V]."""
    if params.greedy:
        return int(row.argmax())
    weights, ids = filtered_weights(row[None], [params])
    number = min(max(number, 0.0), 1.0 - 2.0**-53)
    column = int(inverse_cdf(weights, torch.tensor([[number]], dtype=torch.float64)))
    return column if ids is None else int(ids[0, column])


def allowed_tokens(row: Tensor, drawing: Drawing) -> set[int]:
    """What rounding may make of the draw if a sum is next to a boundary."""
    shares = (-_SLACK, 0.0, _SLACK)
    params = drawing.params
    return {
        expected_token(
            row,
            params.clone(
                top_p=min(1.0, params.top_p * (1 + more)), min_p=min(1.0, params.min_p * (1 + less))
            ),
            drawing.number + share,
        )
        for more, less, share in product(
            shares if params.top_p < 1.0 else (0.0,),
            shares if params.min_p > 0.0 else (0.0,),
            shares,
        )
    }


def check(logits: Tensor, drawings: Sequence[Drawing], tiling: Tiling = SMALL) -> list[int]:
    """That each row's token is the sampler's, or next to it by rounding; returns the tokens."""
    tokens = drawn(logits, drawings, tiling)
    for row, each, token in zip(logits.cpu(), drawings, tokens, strict=True):
        expected = expected_token(row, each.params, each.number)
        if token != expected:
            assert token in allowed_tokens(row, each), (each, token, expected)
    return tokens
