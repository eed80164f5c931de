"""Attention of a few query tokens a sequence over the paged cache, its keys split among programs.

The batch's work is a row of tiles: each sequence's keys, for each of its KV heads, in tiles of TILE
tokens. A fixed number of programs, some for each multiprocessor, share it evenly: each takes an
unbroken stretch, which may end in the middle of a head's keys. So every multiprocessor reads the
same number of bytes, for one long sequence as for many of any lengths. (Stream-K, Osama et al.,
2023, for matrix products; "Lean Attention", Sanovar et al., 2024, for attention.) A head whose keys
were split is put together by whichever of its programs is done last, from softmax parts as in
FlashDecoding (Dao et al., 2023).

All query heads that share a KV head, and all query tokens, are rows of one tile of queries.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine_service.kernels.gpu.launching import launch_options, multiprocessors, padded

# Tensor cores multiply no fewer rows.
_LEAST_ROWS = 16
_LOG2_E = 1.4426950408889634


@dataclass(frozen=True, slots=True)
class DecodeTiling:
    """How the work is cut; the same bytes are read in any case."""

    tile: int = 64
    """Tokens that are computed at once; a power of two of at least 16."""
    stages: int = 5
    """Steps of the loop that overlap: reading a block's id, then its keys and values, in time."""
    programs: int = 2
    """For each multiprocessor. Their tiles on the way have to fit into its shared memory."""


DEFAULT_TILING = DecodeTiling()


@dataclass(frozen=True, slots=True)
class DecodeWorkspace:
    """Memory at fixed addresses for batches of up to so many sequences, shared by all layers."""

    tiling: DecodeTiling

    first_tiles: Tensor
    """Tiles of one KV head that come before each sequence's, and of all, int32 [B + 1]."""
    first_rows: Tensor
    """The sequence that each program begins with, int32 [programs]."""
    arrivals: Tensor
    """Programs that are done with a part of each head's keys, int32 [B * num_kv_heads]; 0 between
    launches."""
    maxima: Tensor
    """Of the scores of each program's two parts, float32 [2 * programs, rows]."""
    sums: Tensor
    """Of the softmax of each, likewise."""
    mixed: Tensor
    """The values that it mixes, float32 [2 * programs, rows, head_dim]."""
    max_query_len: int
    """Query tokens that a sequence may have."""


def make_decode_workspace(
    max_num_seqs: int,
    max_query_len: int,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    device: torch.device,
    tiling: DecodeTiling = DEFAULT_TILING,
) -> DecodeWorkspace:
    """Room for `max_num_seqs` sequences of `max_query_len` query tokens each at most."""
    programs = multiprocessors(device) * tiling.programs
    rows = max_query_len * num_heads // num_kv_heads

    def numbers(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    return DecodeWorkspace(
        tiling=tiling,
        first_tiles=numbers(max_num_seqs + 1, dtype=torch.int32),
        first_rows=numbers(programs, dtype=torch.int32),
        arrivals=numbers(max_num_seqs * num_kv_heads, dtype=torch.int32),
        maxima=numbers(2 * programs, rows),
        sums=numbers(2 * programs, rows),
        mixed=numbers(2 * programs, rows, head_dim),
        max_query_len=max_query_len,
    )


@triton.jit(do_not_specialize=["num_seqs", "num_programs"])
def _plan(
    seq_lens,
    first_tiles,
    first_rows,
    num_seqs,
    num_programs,
    SEQS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    TILE: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """Each program finds one program's first sequence; the first writes the tiles before each."""
    if OVERLAP:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    program = tl.program_id(0)
    seqs = tl.arange(0, SEQS)
    lengths = tl.load(seq_lens + seqs, mask=seqs < num_seqs, other=0)
    tiles = (lengths + TILE - 1) // TILE
    ends = tl.cumsum(tiles)
    total = tl.sum(tiles).to(tl.int64) * NUM_KV_HEADS
    if program == 0:
        tl.store(first_tiles + seqs, ends - tiles, mask=seqs < num_seqs)
        tl.store(first_tiles + num_seqs, tl.sum(tiles))
    used = tl.minimum(total, num_programs)
    begin = program * total // used
    before = (ends.to(tl.int64) * NUM_KV_HEADS <= begin) & (seqs < num_seqs)
    tl.store(first_rows + program, tl.sum(before.to(tl.int32)))


@triton.jit(do_not_specialize=["num_seqs", "stride_table"])
def _decode(
    query,
    key_cache,
    value_cache,
    scales,
    block_tables,
    table_rows,
    seq_lens,
    query_start_loc,
    out,
    first_tiles,
    first_rows,
    arrivals,
    maxima,
    sums,
    mixed_parts,
    num_seqs,
    score_scale,
    stride_table,
    stride_block,
    stride_token,
    stride_head,
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    QUERY_LEN: tl.constexpr,
    ROWS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIMS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    TILE: tl.constexpr,
    STAGES: tl.constexpr,
    FP8: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    if OVERLAP:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    program = tl.program_id(0)
    total = tl.load(first_tiles + num_seqs).to(tl.int64) * NUM_KV_HEADS
    used = tl.minimum(total, tl.num_programs(0))
    begin = (program * total // used).to(tl.int32)
    end = ((program + 1) * total // used).to(tl.int32)
    if program >= used:
        end = begin
    seq = tl.load(first_rows + program)

    row = tl.arange(0, ROWS)
    dim = tl.arange(0, DIMS)
    offset = tl.arange(0, TILE)
    is_row = row < GROUP * QUERY_LEN
    has_dim = dim < HEAD_DIM
    kind = query.dtype.element_ty

    tile = begin
    while tile < end:
        seq_tiles = tl.load(first_tiles + seq)
        num_tiles = tl.load(first_tiles + seq + 1) - seq_tiles
        head = (tile - seq_tiles * NUM_KV_HEADS) // num_tiles
        head_begin = seq_tiles * NUM_KV_HEADS + head * num_tiles
        head_end = head_begin + num_tiles
        stop = tl.minimum(end, head_end)
        seq_len = tl.load(seq_lens + seq)
        table = block_tables + tl.load(table_rows + seq).to(tl.int64) * stride_table
        if QUERY_LEN == 1:
            first_token = seq
            num_queries = 1
        else:
            first_token = tl.load(query_start_loc + seq)
            num_queries = tl.load(query_start_loc + seq + 1) - first_token
        exists = is_row & (row // GROUP < num_queries)
        # The last position whose key each row sees.
        last_seen = seq_len - num_queries + row // GROUP
        place = (first_token + row // GROUP).to(tl.int64) * (NUM_KV_HEADS * GROUP)
        place = (place + head * GROUP + row % GROUP)[:, None] * HEAD_DIM + dim[None, :]
        queries = tl.load(query + place, mask=exists[:, None] & has_dim[None, :], other=0.0)
        scale = score_scale
        if FP8:
            scale = score_scale * tl.load(scales + head)

        highest = tl.full([ROWS], float("-inf"), tl.float32)
        weight = tl.zeros([ROWS], tl.float32)
        mixed = tl.zeros([ROWS, DIMS], tl.float32)
        keys_of_head = key_cache + head * stride_head
        values_of_head = value_cache + head * stride_head
        for number in tl.range(tile - head_begin, stop - head_begin, num_stages=STAGES):
            position = number * TILE + offset
            present = position < seq_len
            if BLOCK_SIZE >= TILE:
                block = tl.load(table + number * TILE // BLOCK_SIZE).to(tl.int64)
                slots = block * stride_block + (position % BLOCK_SIZE) * stride_token
            else:
                block = tl.load(table + position // BLOCK_SIZE, mask=present, other=0)
                slots = block.to(tl.int64) * stride_block + (position % BLOCK_SIZE) * stride_token
            wanted = present[:, None] & has_dim[None, :]
            places = slots[:, None] + dim[None, :]
            keys = tl.load(keys_of_head + places, mask=wanted, other=0.0).to(kind)
            scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") * scale
            seen = present[None, :] & (position[None, :] <= last_seen[:, None])
            scores = tl.where(seen, scores, float("-inf"))
            new_highest = tl.maximum(highest, tl.max(scores, axis=1))
            # A row that sees none of these keys, nor any before, has no highest score yet.
            base = tl.where(new_highest == float("-inf"), 0.0, new_highest)
            shares = tl.exp2(scores - base[:, None])
            shrink = tl.exp2(highest - base)
            weight = weight * shrink + tl.sum(shares, axis=1)
            values = tl.load(values_of_head + places, mask=wanted, other=0.0).to(kind)
            mixed = mixed * shrink[:, None]
            mixed = tl.dot(shares.to(kind), values, mixed, input_precision="ieee")
            highest = new_highest

        is_whole = (tile == head_begin) & (stop == head_end)
        is_done = is_whole
        if not is_whole:
            # Of the programs with a part of this head, the first has it last and the others first.
            part = 2 * program + (tile == head_begin).to(tl.int32)
            parts = part * (GROUP * QUERY_LEN) + row
            tl.store(maxima + parts, highest, mask=is_row)
            tl.store(sums + parts, weight, mask=is_row)
            cells = parts[:, None] * HEAD_DIM + dim[None, :]
            tl.store(mixed_parts + cells, mixed, mask=is_row[:, None] & has_dim[None, :])
            # Every thread's stores come before the one that counts them.
            tl.debug_barrier()
            first = (((head_begin + 1).to(tl.int64) * used - 1) // total).to(tl.int32)
            last = ((head_end.to(tl.int64) * used - 1) // total).to(tl.int32)
            counter = arrivals + seq * NUM_KV_HEADS + head
            arrived = tl.atomic_add(counter, 1, sem="acq_rel")
            is_done = arrived == last - first
            if is_done:
                tl.store(counter, 0)
                highest = tl.full([ROWS], float("-inf"), tl.float32)
                weight = tl.zeros([ROWS], tl.float32)
                mixed = tl.zeros([ROWS, DIMS], tl.float32)
                for other in range(first, last + 1):
                    part = 2 * other + (other == first).to(tl.int32)
                    parts = part * (GROUP * QUERY_LEN) + row
                    cells = parts[:, None] * HEAD_DIM + dim[None, :]
                    own_highest = tl.load(
                        maxima + parts, mask=is_row, other=float("-inf"), cache_modifier=".cg"
                    )
                    own_weight = tl.load(sums + parts, mask=is_row, other=0.0, cache_modifier=".cg")
                    own_mixed = tl.load(
                        mixed_parts + cells,
                        mask=is_row[:, None] & has_dim[None, :],
                        other=0.0,
                        cache_modifier=".cg",
                    )
                    new_highest = tl.maximum(highest, own_highest)
                    base = tl.where(new_highest == float("-inf"), 0.0, new_highest)
                    shrink = tl.exp2(highest - base)
                    own_shrink = tl.exp2(own_highest - base)
                    weight = weight * shrink + own_weight * own_shrink
                    mixed = mixed * shrink[:, None] + own_mixed * own_shrink[:, None]
                    highest = new_highest
        if is_done:
            result = mixed / tl.where(exists, weight, 1.0)[:, None]
            if FP8:
                result *= tl.load(scales + NUM_KV_HEADS + head)
            tl.store(out + place, result.to(kind), mask=exists[:, None] & has_dim[None, :])

        if stop == (seq_tiles + num_tiles) * NUM_KV_HEADS:
            seq += 1
        tile = stop


def plan_decode(seq_lens: Tensor, num_kv_heads: int, workspace: DecodeWorkspace) -> None:
    """Shares the work of sequences with these lengths, int32 [B], for all layers of a step."""
    programs = len(workspace.first_rows)
    _plan[(programs,)](
        seq_lens,
        workspace.first_tiles,
        workspace.first_rows,
        len(seq_lens),
        programs,
        SEQS=padded(len(seq_lens)),
        NUM_KV_HEADS=num_kv_heads,
        TILE=workspace.tiling.tile,
        num_warps=1 if len(seq_lens) <= 64 else 4,
        **launch_options(seq_lens.device),
    )


def decode_attention(
    query: Tensor,
    cache: tuple[Tensor, Tensor],
    scales: Tensor | None,
    block_tables: Tensor,
    table_rows: Tensor,
    seq_lens: Tensor,
    workspace: DecodeWorkspace,
    out: Tensor,
    query_start_loc: Tensor | None = None,
) -> None:
    """Causal attention of the last tokens of B sequences, after `plan_decode` of their lengths.

    `query` and `out` are [T, num_heads, head_dim], contiguous; query head h reads KV head
    h // (num_heads / num_kv_heads). The caches are as `norm_rope_write` has them, `scales` too, and
    hold the query tokens' own KV. Sequence b has the blocks in row `table_rows[b]` of
    `block_tables` [rows, W] and `seq_lens[b]` tokens, all int32; its queries are rows
    query_start_loc[b] to query_start_loc[b + 1] (int32 [B + 1]) of the batch, at most
    `workspace.max_query_len`, or where that is not given, row b alone.
    """
    key_cache, value_cache = cache
    _, block_size, kv_heads, head_dim = key_cache.shape
    group = query.shape[1] // kv_heads
    query_len = 1 if query_start_loc is None else workspace.max_query_len
    _decode[(len(workspace.first_rows),)](
        query,
        key_cache,
        value_cache,
        scales,
        block_tables,
        table_rows,
        seq_lens,
        query_start_loc,
        out,
        workspace.first_tiles,
        workspace.first_rows,
        workspace.arrivals,
        workspace.maxima,
        workspace.sums,
        workspace.mixed,
        len(seq_lens),
        head_dim**-0.5 * _LOG2_E,
        block_tables.stride(0),
        *key_cache.stride()[:3],
        NUM_KV_HEADS=kv_heads,
        GROUP=group,
        QUERY_LEN=query_len,
        ROWS=padded(group * query_len, _LEAST_ROWS),
        HEAD_DIM=head_dim,
        DIMS=padded(head_dim, _LEAST_ROWS),
        BLOCK_SIZE=block_size,
        TILE=workspace.tiling.tile,
        STAGES=workspace.tiling.stages,
        FP8=scales is not None,
        num_warps=4,
        **launch_options(query.device),
    )
