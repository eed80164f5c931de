"""What a GPU's draws must be, from the sampler's own parts, and draws of given rows to compare."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor

from engine_service.kernels.gpu.sampling.sampler import (
    DrawParams,
    Tiling,
    Workspace,
    draw,
    make_workspace,
)
from engine_service.runner.sampling.filters import (
    inverse_cdf,
    keep_top_p,
    relative_weights,
    top_k_candidates,
)
from engine_service.seeding import uniform
from support.twins.gpu_twins import DEVICE, NAN

# Small enough that a vocabulary of some hundreds has several chunks and passes.
SMALL = Tiling(chunk=128, block=8, held=16, tile=32)
# A share of the mass that float32 sums may be wrong by.
_SLACK = 1e-5


@dataclass(frozen=True)
class Slot:
    """One slot's DrawParams."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 7
    index: int = 0
    position: int = 1

    @property
    def number(self) -> float:
        return uniform(self.seed, self.index, self.position)


POISON = Slot(temperature=NAN, top_k=-(2**31), top_p=NAN, min_p=NAN)


def draw_params(slots: Sequence[Slot]) -> DrawParams:
    def vector(name: str, dtype: torch.dtype) -> Tensor:
        return torch.tensor([getattr(slot, name) for slot in slots], dtype=dtype, device=DEVICE)

    seeds = torch.tensor([s.seed for s in slots], dtype=torch.uint64).view(torch.int64)
    return DrawParams(
        seed=seeds.to(DEVICE),
        index=vector("index", torch.int32),
        position=vector("position", torch.int32),
        temperature=vector("temperature", torch.float32),
        top_k=vector("top_k", torch.int32),
        top_p=vector("top_p", torch.float32),
        min_p=vector("min_p", torch.float32),
    )


def poisoned_workspace(max_rows: int, vocab_size: int, tiling: Tiling = SMALL) -> Workspace:
    workspace = make_workspace(max_rows, vocab_size, DEVICE, tiling)
    for scratch in (
        *(workspace.chunk_max, workspace.chunk_sum),
        *(workspace.block_max, workspace.block_sum),
    ):
        scratch.fill_(NAN)
    workspace.block_ids.fill_(2**30)
    return workspace


def drawn(logits: Tensor, slots: Sequence[Slot], tiling: Tiling = SMALL) -> list[int]:
    """Draws for rows [R, V] whose slots are stored in reverse, among unused ones full of NaN."""
    stored = [part for slot in reversed(slots) for part in (POISON, slot)]
    rows = torch.tensor([2 * (len(slots) - i) - 1 for i in range(len(slots))], dtype=torch.int32)
    workspace = poisoned_workspace(len(slots) + 1, logits.shape[1], tiling)
    token_ids = torch.full((len(slots) + 1,), -9, dtype=torch.int32, device=DEVICE)
    # Behind the rows there is nothing to read.
    padded = torch.full((len(slots) + 1, logits.shape[1]), NAN, dtype=logits.dtype, device=DEVICE)
    padded[:-1] = logits.to(DEVICE)
    draw(padded[:-1], rows.to(DEVICE), draw_params(stored), workspace, token_ids[:-1])
    assert token_ids[-1] == -9
    return token_ids[:-1].tolist()


def expected_token(row: Tensor, slot: Slot, share: float = 0.0) -> int:
    """The sampler's token for one row [V], where the number is off by `share`."""
    if slot.temperature == 0.0:
        return int(row.argmax())
    ids, values = None, row[None]
    if 0 < slot.top_k < len(row):
        values, ids = top_k_candidates(values, [slot.top_k])
    weights = relative_weights(values, [slot.temperature], [slot.min_p])
    keep_top_p(weights, [slot.top_p])
    number = min(max(slot.number + share, 0.0), 1.0 - 2.0**-53)
    place = int(inverse_cdf(weights, torch.tensor([[number]], dtype=torch.float64)))
    return place if ids is None else int(ids[0, place])


def allowed_tokens(row: Tensor, slot: Slot) -> set[int]:
    """What rounding may make of the draw where a sum is next to a boundary."""
    shares = (-_SLACK, 0.0, _SLACK)
    return {
        expected_token(
            row,
            replace(slot, top_p=slot.top_p * (1 + more), min_p=slot.min_p * (1 + least)),
            share,
        )
        for more, least, share in product(
            shares if slot.top_p < 1.0 else (0.0,),
            shares if slot.min_p > 0.0 else (0.0,),
            shares,
        )
    }


def check(logits: Tensor, slots: Sequence[Slot], tiling: Tiling = SMALL) -> list[int]:
    """That each row's token is the sampler's, or next to it by rounding; returns the tokens."""
    tokens = drawn(logits, slots, tiling)
    for row, slot, token in zip(logits.cpu(), slots, tokens, strict=True):
        if token != expected_token(row, slot):
            assert token in allowed_tokens(row, slot), (slot, token, expected_token(row, slot))
    return tokens
