"""How the keys of a batch are shared among programs, once for all layers of a step.

The batch's work is a row of tiles: each sequence's keys, for each of its KV heads, in tiles of some
tokens. A fixed number of programs, some for each multiprocessor, share it evenly: each takes an
unbroken stretch, which may end in the middle of a head's keys. So every multiprocessor reads the
same number of bytes, whether for one long sequence or for many of any lengths. (Stream-K, Osama et
al., 2023, for matrix products; "Lean Attention", Sanovar et al., 2024, for attention.) Starting a
head takes time as well, so each has START tiles more than its keys, in which nothing is read.
Little work is shared by fewer programs, since combining parts takes as long as some tiles.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine_service.kernels.gpu.launching import (
    launch_options,
    multiprocessors,
    overlap_launch,
    padded,
)

RECORD = tl.constexpr(8)
"""Words that describe a program's stretch: the first tile and the one after the last, the first
sequence, the tiles of one head before that, its tiles, tokens and row of the block tables, and the
number of programs that have work."""
START = tl.constexpr(2)
"""Tiles that take as long as starting a head."""
# Tiles of one head that a program takes rather than share them.
_MIN_TILES = tl.constexpr(4)


@dataclass(frozen=True, slots=True)
class DecodeTiling:
    """How the work is divided; the same bytes are read in any case."""

    tile: int = 64
    """Tokens that are computed at once; a power of two of at least 16."""
    stages: int = 6
    """Steps of the loop that overlap, to read a block's id, then its keys and values, in time."""
    programs: int = 3
    """For each multiprocessor, whose shared memory must hold their tiles in flight."""


@dataclass(frozen=True, slots=True)
class DecodeWorkspace:
    """Memory at fixed addresses for batches of a limited size, shared by all layers."""

    tiling: DecodeTiling
    records: Tensor
    """int32 [programs, RECORD]"""
    first_tiles: Tensor
    """Tiles of one KV head that come before each sequence's, and of all, int32 [B + 1]."""
    arrivals: Tensor
    """Programs that have finished a part of each head's keys, int32 [B * num_kv_heads]; 0 between
    launches."""
    maxima: Tensor
    """Of the scores of each program's two parts, float32 [2 * programs, rows]."""
    sums: Tensor
    """Of the softmax of each, likewise."""
    mixed_parts: Tensor
    """The values that it mixes, float32 [2 * programs, rows, head_dim]."""
    max_query_len: int
    """Query tokens that a sequence may have."""

    def buffers(self) -> dict[str, Tensor]:
        """Keyword arguments of the kernel that attends."""
        names = ("records", "first_tiles", "arrivals", "maxima", "sums", "mixed_parts")
        return {name: getattr(self, name) for name in names}


def make_decode_workspace(
    max_num_seqs: int,
    max_query_len: int,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    device: torch.device,
    tiling: DecodeTiling,
) -> DecodeWorkspace:
    """Room for `max_num_seqs` sequences of `max_query_len` query tokens each at most."""
    programs = multiprocessors(device) * tiling.programs
    rows = max_query_len * num_heads // num_kv_heads

    def numbers(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    return DecodeWorkspace(
        tiling=tiling,
        records=numbers(programs, RECORD.value, dtype=torch.int32),
        first_tiles=numbers(max_num_seqs + 1, dtype=torch.int32),
        arrivals=numbers(max_num_seqs * num_kv_heads, dtype=torch.int32),
        maxima=numbers(2 * programs, rows),
        sums=numbers(2 * programs, rows),
        mixed_parts=numbers(2 * programs, rows, head_dim),
        max_query_len=max_query_len,
    )


@triton.jit(do_not_specialize=["num_seqs", "num_programs"])
def _plan(
    seq_lens,
    table_rows,
    first_tiles,
    records,
    num_seqs,
    num_programs,
    SEQS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    TILE: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """Each program writes one record; the first also writes the tiles before each sequence."""
    overlap_launch(OVERLAP)
    program = tl.program_id(0).to(tl.int64)
    seqs = tl.arange(0, SEQS)
    lengths = tl.load(seq_lens + seqs, mask=seqs < num_seqs, other=0)
    tiles = tl.where(lengths > 0, (lengths + TILE - 1) // TILE + START, 0)
    ends = tl.cumsum(tiles)
    all_tiles = tl.sum(tiles)
    if program == 0:
        tl.store(first_tiles + seqs, ends - tiles, mask=seqs < num_seqs)
        tl.store(first_tiles + num_seqs, all_tiles)
    total = all_tiles.to(tl.int64) * NUM_KV_HEADS
    worthwhile = tl.maximum((total + _MIN_TILES - 1) // _MIN_TILES, num_seqs * NUM_KV_HEADS)
    used = tl.maximum(tl.minimum(tl.minimum(total, worthwhile), num_programs), 1)
    begin = tl.minimum(program, used) * total // used
    end = tl.minimum(program + 1, used) * total // used
    before = (ends.to(tl.int64) * NUM_KV_HEADS <= begin) & (seqs < num_seqs)
    first = tl.minimum(tl.sum(before.to(tl.int32)), num_seqs - 1)
    is_first = seqs == first
    record = records + program * RECORD
    tl.store(record, begin.to(tl.int32))
    tl.store(record + 1, end.to(tl.int32))
    tl.store(record + 2, first)
    tl.store(record + 3, tl.sum(tl.where(is_first, ends - tiles, 0)))
    tl.store(record + 4, tl.sum(tl.where(is_first, tiles, 0)))
    tl.store(record + 5, tl.sum(tl.where(is_first, lengths, 0)))
    tl.store(record + 6, tl.load(table_rows + first))
    tl.store(record + 7, used.to(tl.int32))


def plan_decode(
    seq_lens: Tensor, table_rows: Tensor, num_kv_heads: int, workspace: DecodeWorkspace
) -> None:
    """Shares the work of B sequences: their tokens, and their rows of the block tables, int32 [B].

    Nothing is computed for a sequence without tokens.
    """
    programs = len(workspace.records)
    _plan[(programs,)](
        seq_lens,
        table_rows,
        workspace.first_tiles,
        workspace.records,
        len(seq_lens),
        programs,
        SEQS=padded(len(seq_lens)),
        NUM_KV_HEADS=num_kv_heads,
        TILE=workspace.tiling.tile,
        num_warps=1 if len(seq_lens) <= 64 else 4,
        **launch_options(seq_lens.device),
    )
