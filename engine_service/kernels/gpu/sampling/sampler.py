"""Draws a token for each row of logits on a GPU, as `engine_service.runner.sampling.sampler` says.

Two launches, whatever is asked for: one reads all logits, a chunk of a row a program; then one
program a row finds its token. Chunks and the order of sums depend on the vocabulary alone, so that
a row's token depends on nothing else in its batch.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine_service.kernels.gpu.launching import launch_options, padded
from engine_service.kernels.gpu.sampling.filtered_draw import draw_filtered
from engine_service.kernels.gpu.sampling.order_keys import order_key
from engine_service.kernels.gpu.sampling.row_weights import (
    inverse_temperature,
    pick_share,
    relative_weights,
    token_within,
)
from engine_service.kernels.gpu.sampling.uniform import uniform

_ALIGNMENT = 16


@dataclass(frozen=True, slots=True)
class DrawParams:
    """How to draw, each a contiguous vector on the device with one entry a slot.

    seed is the bits of a uint64 in int64; `position` (int32) is the number of tokens whose keys and
    values the cache holds, that of the drawn token. temperature (float32) 0 takes the most probable
    token, and the filters of its slot are not looked at. Off are top_k (int32) 0 or any that is no
    less than the vocabulary, top_p (float32) 1 and min_p (float32) 0. index is int32.
    """

    seed: Tensor
    index: Tensor
    position: Tensor
    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor


@dataclass(frozen=True, slots=True)
class Tiling:
    """Sizes in ids, all powers of 2.

    A program reads `chunk`. Each `block` of it has its largest value known; `held` blocks are what
    a row's program has in registers at once, `tile` are a step of its passes over more.
    """

    chunk: int = 2048
    block: int = 32
    held: int = 256
    tile: int = 128


@dataclass(frozen=True, slots=True)
class Workspace:
    """What the two launches leave to each other: float32, block_ids int32, [max_rows, ...] each."""

    vocab_size: int
    tiling: Tiling
    chunk_max: Tensor
    chunk_sum: Tensor
    block_max: Tensor
    block_sum: Tensor
    block_ids: Tensor


def make_workspace(
    max_rows: int, vocab_size: int, device: torch.device, tiling: Tiling | None = None
) -> Workspace:
    """Room for draws of up to max_rows rows; each takes 12 bytes for each block of ids."""
    tiling = tiling or Tiling()
    chunks = triton.cdiv(vocab_size, tiling.chunk)
    blocks = chunks * (tiling.chunk // tiling.block)
    return Workspace(
        vocab_size=vocab_size,
        tiling=tiling,
        chunk_max=torch.empty((max_rows, chunks), dtype=torch.float32, device=device),
        chunk_sum=torch.empty((max_rows, chunks), dtype=torch.float32, device=device),
        block_max=torch.empty((max_rows, blocks), dtype=torch.float32, device=device),
        block_sum=torch.empty((max_rows, blocks), dtype=torch.float32, device=device),
        block_ids=torch.empty((max_rows, blocks), dtype=torch.int32, device=device),
    )


def draw(
    logits: Tensor, rows: Tensor, params: DrawParams, workspace: Workspace, token_ids: Tensor
) -> None:
    """Writes a token id for each row to token_ids, int32 [R]; -1 where it has no finite largest.

    `logits` is [R, vocab_size], contiguous, in bfloat16, float16 or float32, and begins at a
    multiple of 16 bytes; `rows`, int32 [R], has each row's slot in `params`. Nothing is allocated
    and the host is not waited for. Raises ValueError where the logits or the workspace do not fit.
    """
    num_rows, vocab_size = logits.shape
    if vocab_size != workspace.vocab_size or num_rows > len(workspace.chunk_max):
        raise ValueError(
            f"a workspace for {len(workspace.chunk_max)} rows of {workspace.vocab_size} ids does "
            f"not fit logits of shape {tuple(logits.shape)}"
        )
    # Loads of another width would sum in another order.
    if not logits.is_contiguous() or logits.data_ptr() % _ALIGNMENT:
        raise ValueError(f"logits must be contiguous from a multiple of {_ALIGNMENT} bytes on")
    if not num_rows:
        return
    tiling = workspace.tiling
    chunks, blocks = workspace.chunk_max.shape[1], workspace.block_max.shape[1]
    options = launch_options(logits.device)
    filters = (params.temperature, params.top_k, params.top_p, params.min_p)
    _scan_chunks[(chunks, num_rows)](
        *(logits, rows, *filters),
        *(workspace.chunk_max, workspace.chunk_sum, workspace.block_max),
        VOCAB=vocab_size,
        CHUNK=tiling.chunk,
        BLOCK=tiling.block,
        BLOCKS=blocks,
        num_warps=4,
        **options,
    )
    _draw_rows[(num_rows,)](
        *(logits, rows, params.seed, params.index, params.position, *filters),
        *(workspace.chunk_max, workspace.chunk_sum, workspace.block_max),
        *(workspace.block_sum, workspace.block_ids, token_ids),
        VOCAB=vocab_size,
        CHUNK=tiling.chunk,
        CHUNKS=chunks,
        CHUNKS_SIZE=padded(chunks),
        BLOCK=tiling.block,
        BLOCKS=blocks,
        BLOCKS_SIZE=padded(blocks, tiling.block),
        HELD=tiling.held,
        TILE=tiling.tile,
        num_warps=16,
        **options,
    )


@triton.jit
def _is_filtered(top_k, top_p, min_p, VOCAB: tl.constexpr):
    return ((top_k > 0) & (top_k < VOCAB)) | (top_p < 1.0) | (min_p > 0.0)


# Slots may begin anywhere in a buffer, which must not ask for another compilation.
_UNALIGNED = ["rows", "seeds", "indexes", "positions", "temperatures", "top_ks", "top_ps", "min_ps"]


@triton.jit(do_not_specialize_on_alignment=_UNALIGNED)
def _scan_chunks(
    logits,
    rows,
    temperatures,
    top_ks,
    top_ps,
    min_ps,
    chunk_max,
    chunk_sum,
    block_max,
    VOCAB: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """Largest values of a chunk and its blocks, and its weight where the largest value weighs 1."""
    OWN_BLOCKS: tl.constexpr = CHUNK // BLOCK
    chunk = tl.program_id(0)
    row = tl.program_id(1)
    own_blocks = chunk * OWN_BLOCKS + tl.arange(0, OWN_BLOCKS)
    ids = own_blocks[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    if OVERLAP:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    start = logits + row.to(tl.int64) * VOCAB
    values = tl.load(start + ids, mask=ids < VOCAB, other=float("-inf")).to(tl.float32)
    slot = tl.load(rows + row)
    factor = inverse_temperature(tl.load(temperatures + slot))
    filtered = _is_filtered(
        tl.load(top_ks + slot), tl.load(top_ps + slot), tl.load(min_ps + slot), VOCAB
    )

    maxima = tl.max(values, axis=1)
    largest = tl.max(maxima)
    # A chunk of nothing but -inf weighs 0; what is no number makes the sum none either.
    base = tl.where(largest == float("-inf"), 0.0, largest)
    weight = tl.sum(tl.sum(relative_weights(values, base, factor), axis=1))
    place = row * tl.num_programs(0) + chunk
    tl.store(chunk_max + place, largest)
    tl.store(chunk_sum + place, weight)
    if filtered:
        tl.store(block_max + row * BLOCKS + own_blocks, maxima)


@triton.jit(do_not_specialize_on_alignment=[*_UNALIGNED, "token_ids"])
def _draw_rows(
    logits,
    rows,
    seeds,
    indexes,
    positions,
    temperatures,
    top_ks,
    top_ps,
    min_ps,
    chunk_max,
    chunk_sum,
    block_max,
    block_sum,
    block_ids,
    token_ids,
    VOCAB: tl.constexpr,
    CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr,
    CHUNKS_SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCKS_SIZE: tl.constexpr,
    HELD: tl.constexpr,
    TILE: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """One row's token."""
    row = tl.program_id(0)
    if OVERLAP:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    start = logits + row.to(tl.int64) * VOCAB
    slot = tl.load(rows + row)
    temperature = tl.load(temperatures + slot)
    factor = inverse_temperature(temperature)
    chunks = tl.arange(0, CHUNKS_SIZE)
    real = chunks < CHUNKS
    maxima = tl.load(chunk_max + row * CHUNKS + chunks, mask=real, other=float("-inf"))
    sums = tl.load(chunk_sum + row * CHUNKS + chunks, mask=real, other=0.0)
    largest = tl.max(maxima)
    sums *= relative_weights(maxima, largest, factor)
    total = tl.sum(sums)

    token_id = tl.full((), -1, tl.int32)
    # It is no number where the largest is infinite, or anything in the row is none.
    if total > 0.0:
        if temperature > 0.0:
            number = uniform(
                tl.load(seeds + slot), tl.load(indexes + slot), tl.load(positions + slot)
            )
            top_k = tl.load(top_ks + slot)
            top_p = tl.load(top_ps + slot)
            min_p = tl.load(min_ps + slot)
            if _is_filtered(top_k, top_p, min_p, VOCAB):
                scratch = row * BLOCKS
                token_id = draw_filtered(
                    *(start, block_max + scratch, block_ids + scratch, block_sum + scratch),
                    *(largest, factor, total, number, top_k, top_p, min_p),
                    *(VOCAB, BLOCK, BLOCKS, BLOCKS_SIZE, HELD, TILE),
                )
            else:
                chunk, rest = pick_share(sums, number)
                everything = order_key(tl.full((), float("-inf"), tl.float32))
                token_id = token_within(
                    *(start, chunk * CHUNK, largest, factor, everything, 0.0, rest, VOCAB, CHUNK)
                )
        else:
            chunk = tl.min(tl.where(maxima == largest, chunks, CHUNKS))
            ids = chunk * CHUNK + tl.arange(0, CHUNK)
            values = tl.load(start + ids, mask=ids < VOCAB, other=float("-inf")).to(tl.float32)
            token_id = tl.min(tl.where(values == largest, ids, VOCAB))
    tl.store(token_ids + row, token_id)
