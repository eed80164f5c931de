"""Attention of a few query tokens a sequence over the paged cache, its keys split among programs.

`decode_plan` says which program has which keys. If a head's keys are split, the program that
finishes last combines the softmax parts, as in FlashDecoding (Dao et al., 2023). All query heads
that share a KV head, and all query tokens, are rows of one tile of queries.

If every sequence has one token, the kernel also does what `norm_rope_write` would do before it:
each program norms and rotates its queries, and the one with a head's last keys does so with the new
key, writes it, and begins with it instead of reading it back.
"""

import triton
import triton.language as tl
from torch import Tensor

from engine_service.kernels.gpu.attention.decode_parts import combine, rotated, write_new
from engine_service.kernels.gpu.attention.decode_plan import RECORD, START, DecodeWorkspace
from engine_service.kernels.gpu.attention.heads import RawHeads
from engine_service.kernels.gpu.launching import cache_layout, launch_options, padded

# Tensor cores multiply at least this many rows.
_MIN_ROWS = 16
_LOG2_E = 1.4426950408889634


@triton.jit(do_not_specialize=["num_seqs", "stride_table"])
def _decode(
    query,
    q_weight,
    k_weight,
    angles,
    key_cache,
    value_cache,
    scales,
    block_tables,
    table_rows,
    seq_lens,
    query_start_loc,
    out,
    records,
    first_tiles,
    arrivals,
    maxima,
    sums,
    mixed_parts,
    num_seqs,
    eps,
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
    HALF: tl.constexpr,
    DIMS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    TILE: tl.constexpr,
    STAGES: tl.constexpr,
    RAW: tl.constexpr,
    NORM: tl.constexpr,
    FP8: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    if OVERLAP:
        tl.extra.cuda.gdc_launch_dependents()
    program = tl.program_id(0)
    # The plan was made before all layers.
    record = records + program * RECORD
    tile, end, seq = tl.load(record), tl.load(record + 1), tl.load(record + 2)
    seq_tiles, num_tiles = tl.load(record + 3), tl.load(record + 4)
    seq_len, table_row = tl.load(record + 5), tl.load(record + 6)
    if OVERLAP:
        tl.extra.cuda.gdc_wait()

    NUM_ROWS: tl.constexpr = GROUP * QUERY_LEN
    TOKEN_HEADS: tl.constexpr = NUM_KV_HEADS * (GROUP + 2 if RAW else GROUP)
    row, offset = tl.arange(0, ROWS), tl.arange(0, TILE)
    half, dim = tl.arange(0, HALF)[None, :], tl.arange(0, DIMS)
    is_half, is_dim = half < HEAD_DIM // 2, dim < HEAD_DIM
    kind = out.dtype.element_ty
    # 8-bit floats become 16-bit ones of this kind in half as many instructions.
    inner = tl.float16 if FP8 and kind.primitive_bitwidth == 16 else kind

    while tile < end:
        head = (tile - seq_tiles * NUM_KV_HEADS) // num_tiles
        head_begin = seq_tiles * NUM_KV_HEADS + head * num_tiles
        head_end = head_begin + num_tiles
        stop = tl.minimum(end, head_end)
        table = block_tables + table_row.to(tl.int64) * stride_table
        first_token, num_queries = seq, 1
        if QUERY_LEN > 1:
            first_token = tl.load(query_start_loc + seq)
            num_queries = tl.load(query_start_loc + seq + 1) - first_token
        exists = (row < NUM_ROWS) & (row // GROUP < num_queries)
        token = (first_token + row // GROUP).to(tl.int64)
        query_rows = query + (token * TOKEN_HEADS + head * GROUP + row % GROUP)[:, None] * HEAD_DIM
        key_scale, value_scale = 1.0, 1.0
        if FP8:
            key_scale = tl.load(scales + head)
            value_scale = tl.load(scales + NUM_KV_HEADS + head)
        scale = score_scale * key_scale
        keys_of_head = key_cache + head * stride_head
        values_of_head = value_cache + head * stride_head

        row_max = tl.full([ROWS], float("-inf"), tl.float32)
        weight = tl.zeros([ROWS], tl.float32)
        mixed = tl.zeros([ROWS, DIMS], tl.float32)
        num_cached = seq_len
        if RAW:
            num_cached = seq_len - 1
            own_angles = angles + num_cached.to(tl.int64) * HEAD_DIM
            low, high = rotated(
                query_rows, q_weight, own_angles, exists[:, None], half, eps, HEAD_DIM, NORM
            )
            low, high = low.to(kind), high.to(kind)
            if stop == head_end:
                own_head = (seq.to(tl.int64) * TOKEN_HEADS + NUM_KV_HEADS * GROUP + head) * HEAD_DIM
                slot = tl.load(table + num_cached // BLOCK_SIZE).to(tl.int64) * stride_block
                slot += (num_cached % BLOCK_SIZE) * stride_token
                key_low, key_high, value = write_new(
                    *(query + own_head, NUM_KV_HEADS * HEAD_DIM, k_weight, own_angles),
                    *(keys_of_head + slot, values_of_head + slot, key_scale, value_scale),
                    *(half, dim, eps, HEAD_DIM, NORM, FP8),
                )
                score = tl.sum(low.to(tl.float32) * key_low.to(tl.float32), axis=1)
                score += tl.sum(high.to(tl.float32) * key_high.to(tl.float32), axis=1)
                row_max = score * scale
                weight += 1.0
                mixed += value.to(tl.float32)
        else:
            is_query = exists[:, None] & is_half
            low = tl.load(query_rows + half, mask=is_query, other=0.0)
            high = tl.load(query_rows + HEAD_DIM // 2 + half, mask=is_query, other=0.0)
        low, high = low.to(inner), high.to(inner)
        # The last position whose key each row sees.
        last_seen = seq_len - num_queries + row // GROUP

        first_tile = tl.maximum(tile - head_begin - START, 0)
        for number in tl.range(first_tile, stop - head_begin - START, num_stages=STAGES):
            position = number * TILE + offset
            present = position < num_cached
            if BLOCK_SIZE >= TILE:
                block = tl.load(table + number * TILE // BLOCK_SIZE).to(tl.int64)
            else:
                block = tl.load(table + position // BLOCK_SIZE, mask=present, other=0).to(tl.int64)
            slots = (block * stride_block + (position % BLOCK_SIZE) * stride_token)[:, None]
            mask = present[:, None] & is_half
            low_keys = tl.load(keys_of_head + slots + half, mask=mask, other=0.0)
            high_keys = tl.load(keys_of_head + slots + HEAD_DIM // 2 + half, mask=mask, other=0.0)
            scores = tl.dot(low, tl.trans(low_keys.to(inner)), input_precision="ieee")
            scores = tl.dot(high, tl.trans(high_keys.to(inner)), scores, input_precision="ieee")
            seen = present[None, :] & (position[None, :] <= last_seen[:, None])
            scores = tl.where(seen, scores * scale, float("-inf"))
            new_max = tl.maximum(row_max, tl.max(scores, axis=1))
            # A row that has seen no keys has no maximum score yet.
            base = tl.where(new_max == float("-inf"), 0.0, new_max)
            shares = tl.exp2(scores - base[:, None])
            shrink = tl.exp2(row_max - base)
            weight = weight * shrink + tl.sum(shares, axis=1)
            values = tl.load(
                values_of_head + slots + dim[None, :],
                mask=present[:, None] & is_dim[None, :],
                other=0.0,
            ).to(inner)
            mixed = tl.dot(
                shares.to(inner), values, mixed * shrink[:, None], input_precision="ieee"
            )
            row_max = new_max

        is_done = (tile == head_begin) & (stop == head_end)
        if not is_done:
            part = 2 * program + (tile == head_begin).to(tl.int32)
            parts = part * NUM_ROWS + row
            tl.store(maxima + parts, row_max, mask=row < NUM_ROWS)
            tl.store(sums + parts, weight, mask=row < NUM_ROWS)
            cells = parts[:, None] * HEAD_DIM + dim[None, :]
            tl.store(mixed_parts + cells, mixed, mask=(row < NUM_ROWS)[:, None] & is_dim[None, :])
            # Every thread's stores come before the count.
            tl.debug_barrier()
            total = tl.load(first_tiles + num_seqs).to(tl.int64) * NUM_KV_HEADS
            used = tl.load(record + 7)
            first = (((head_begin + 1).to(tl.int64) * used - 1) // total).to(tl.int32)
            last = ((head_end.to(tl.int64) * used - 1) // total).to(tl.int32)
            counter = arrivals + seq * NUM_KV_HEADS + head
            is_done = tl.atomic_add(counter, 1, sem="acq_rel") == last - first
            if is_done:
                tl.store(counter, 0)
                weight, mixed = combine(
                    *(maxima, sums, mixed_parts, first, last, row, dim),
                    *(NUM_ROWS, HEAD_DIM, ROWS, DIMS),
                )
        if is_done:
            result = mixed * value_scale / tl.where(exists, weight, 1.0)[:, None]
            target = (token * (NUM_KV_HEADS * GROUP) + head * GROUP + row % GROUP)[:, None]
            target = out + target * HEAD_DIM + dim[None, :]
            tl.store(target, result.to(kind), mask=exists[:, None] & is_dim[None, :])

        tile = stop
        if (tile == (seq_tiles + num_tiles) * NUM_KV_HEADS) & (tile < end):
            seq += 1
            seq_tiles += num_tiles
            num_tiles = tl.load(first_tiles + seq + 1) - seq_tiles
            # Skips sequences without tokens.
            while num_tiles == 0:
                seq += 1
                num_tiles = tl.load(first_tiles + seq + 1) - seq_tiles
            seq_len = tl.load(seq_lens + seq)
            table_row = tl.load(table_rows + seq)


def decode_attention(
    query: Tensor,
    cache: tuple[Tensor, Tensor, Tensor | None],
    block_tables: Tensor,
    table_rows: Tensor,
    seq_lens: Tensor,
    workspace: DecodeWorkspace,
    out: Tensor,
    query_start_loc: Tensor | None = None,
    raw: RawHeads | None = None,
) -> None:
    """Causal attention of the last tokens of B sequences, after `plan_decode` of them.

    `query` and `out` are [T, num_heads, head_dim], contiguous; query head h reads KV head
    h // (num_heads / num_kv_heads). The cache is as `norm_rope_write` has it, and holds the query
    tokens' own KV. Sequence b has the blocks in row `table_rows[b]` of `block_tables` [rows, W] and
    `seq_lens[b]` tokens, all int32; its queries are rows query_start_loc[b] to
    query_start_loc[b + 1] (int32 [B + 1]), at most `workspace.max_query_len`; without it, row b.

    With `raw`, each sequence has one token, `query` is the fused projection, as `norm_rope_write`
    has both, and this does that first.
    """
    key_cache, value_cache, scales = cache
    kv_heads, head_dim = key_cache.shape[2:]
    group = out.shape[1] // kv_heads
    query_len = 1 if query_start_loc is None else workspace.max_query_len
    q_weight, k_weight, eps, angles = raw or (None, None, 0.0, None)
    _decode[(len(workspace.records),)](
        query=query,
        q_weight=q_weight,
        k_weight=k_weight,
        angles=angles,
        key_cache=key_cache,
        value_cache=value_cache,
        scales=scales,
        block_tables=block_tables,
        table_rows=table_rows,
        seq_lens=seq_lens,
        query_start_loc=query_start_loc,
        out=out,
        **workspace.buffers(),
        num_seqs=len(seq_lens),
        eps=eps,
        score_scale=head_dim**-0.5 * _LOG2_E,
        stride_table=block_tables.stride(0),
        **cache_layout(key_cache),
        NUM_KV_HEADS=kv_heads,
        GROUP=group,
        QUERY_LEN=query_len,
        ROWS=padded(group * query_len, _MIN_ROWS),
        HALF=padded(head_dim // 2, _MIN_ROWS),
        DIMS=padded(head_dim, _MIN_ROWS),
        TILE=workspace.tiling.tile,
        STAGES=workspace.tiling.stages,
        RAW=raw is not None,
        NORM=q_weight is not None,
        FP8=scales is not None,
        num_warps=4,
        **launch_options(query.device),
    )
