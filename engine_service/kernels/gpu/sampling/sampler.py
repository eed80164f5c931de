"""Draws a token for each row of logits on a GPU, as `engine_service.runner.sampling.sampler` says.

Two launches, whatever the parameters: in the first, each program reads a chunk of a row; in the
second, each finds a row's token. Chunks and the order of sums depend on the vocabulary alone, so a
row's token depends on nothing else in its batch.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine_service.draw_fields import DRAW_WORDS
from engine_service.kernels.gpu.launching import launch_options, overlap_launch, padded
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


_SEED_LOW = tl.constexpr(DRAW_WORDS.index("seed_low"))
_SEED_HIGH = tl.constexpr(DRAW_WORDS.index("seed_high"))
_INDEX = tl.constexpr(DRAW_WORDS.index("index"))
_POSITION = tl.constexpr(DRAW_WORDS.index("position"))
_TEMPERATURE = tl.constexpr(DRAW_WORDS.index("temperature"))
_TOP_K = tl.constexpr(DRAW_WORDS.index("top_k"))
_TOP_P = tl.constexpr(DRAW_WORDS.index("top_p"))
_MIN_P = tl.constexpr(DRAW_WORDS.index("min_p"))


@dataclass(frozen=True, slots=True)
class Tiling:
    """Sizes, all powers of 2.

    A program reads `chunk` ids and keeps the maximum of each `block` of them. A row's program holds
    `held` blocks in registers at once, and passes over more in steps of `tile` blocks.
    """

    chunk: int = 2048
    block: int = 32
    held: int = 256
    tile: int = 128


@dataclass(frozen=True, slots=True)
class Workspace:
    """Scratch memory of both launches: float32, block_ids int32, [max_rows, ...] each."""

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
    logits: Tensor, rows: Tensor, params: Tensor, workspace: Workspace, token_ids: Tensor
) -> None:
    """Writes a token id for each row to token_ids, int32 [R]; -1 if it has no finite maximum.

    `logits` is [R, vocab_size], contiguous, in bfloat16, float16 or float32, and begins at a
    multiple of 16 bytes. Column rows[r] (`rows` is int32 [R]) of `params` says how to draw row r:
    the DRAW_WORDS, int32 [words, S], S contiguous. Its position is the number of tokens whose keys
    and values the cache holds; temperature 0 takes the most probable token and ignores the filters.
    Nothing is allocated and the host does not wait. Raises ValueError if the logits or the
    workspace do not fit.
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
    inputs = (logits, rows, params, params.stride(0))
    _scan_chunks[(chunks, num_rows)](
        *inputs,
        *(workspace.chunk_max, workspace.chunk_sum, workspace.block_max),
        VOCAB=vocab_size,
        CHUNK=tiling.chunk,
        BLOCK=tiling.block,
        BLOCKS=blocks,
        num_warps=4,
        **options,
    )
    _draw_rows[(num_rows,)](
        *inputs,
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
def _int(own, stride, WORD: tl.constexpr):
    return tl.load(own + stride * WORD)


@triton.jit
def _float(own, stride, WORD: tl.constexpr):
    return tl.load(own + stride * WORD).to(tl.float32, bitcast=True)


@triton.jit
def random_number(own, stride):
    """The random number of a draw whose words begin at `own`."""
    low, high = _int(own, stride, _SEED_LOW).to(tl.int64), _int(own, stride, _SEED_HIGH)
    seed = (high.to(tl.int64) << 32) | (low & 0xFFFFFFFF)
    return uniform(seed, _int(own, stride, _INDEX), _int(own, stride, _POSITION))


@triton.jit
def _filters(own, stride, total):
    """top_k, top_p, and the minimum weight that is kept, for a row whose weights sum to `total`."""
    return _int(own, stride, _TOP_K), _float(own, stride, _TOP_P), _float(own, stride, _MIN_P)


@triton.jit
def _is_filtered(top_k, top_p, min_weight, VOCAB: tl.constexpr):
    return ((top_k > 0) & (top_k < VOCAB)) | (top_p < 1.0) | (min_weight > 0.0)


# Views that begin anywhere in a buffer, with any stride, are not worth compiling again.
_UNALIGNED = ["rows", "params"]
_UNSPECIAL = ["stride_params"]


@triton.jit(do_not_specialize=_UNSPECIAL, do_not_specialize_on_alignment=_UNALIGNED)
def _scan_chunks(
    logits,
    rows,
    params,
    stride_params,
    chunk_max,
    chunk_sum,
    block_max,
    VOCAB: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """The maxima of a chunk and its blocks, and its weight if the maximum weighs 1."""
    OWN_BLOCKS: tl.constexpr = CHUNK // BLOCK
    chunk = tl.program_id(0)
    row = tl.program_id(1)
    own_blocks = chunk * OWN_BLOCKS + tl.arange(0, OWN_BLOCKS)
    ids = own_blocks[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    overlap_launch(OVERLAP)
    start = logits + row.to(tl.int64) * VOCAB
    values = tl.load(start + ids, mask=ids < VOCAB, other=float("-inf")).to(tl.float32)
    own = params + tl.load(rows + row)
    factor = inverse_temperature(_float(own, stride_params, _TEMPERATURE))
    top_k, top_p, min_weight = _filters(own, stride_params, 1.0)
    filtered = _is_filtered(top_k, top_p, min_weight, VOCAB)

    maxima = tl.max(values, axis=1)
    own_max = tl.max(maxima)
    # A chunk of nothing but -inf weighs 0; NaN makes the sum NaN too.
    base = tl.where(own_max == float("-inf"), 0.0, own_max)
    weight = tl.sum(tl.sum(relative_weights(values, base, factor), axis=1))
    index = row * tl.num_programs(0) + chunk
    tl.store(chunk_max + index, own_max)
    tl.store(chunk_sum + index, weight)
    if filtered:
        tl.store(block_max + row * BLOCKS + own_blocks, maxima)


@triton.jit(do_not_specialize=_UNSPECIAL, do_not_specialize_on_alignment=[*_UNALIGNED, "token_ids"])
def _draw_rows(
    logits,
    rows,
    params,
    stride_params,
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
    overlap_launch(OVERLAP)
    start = logits + row.to(tl.int64) * VOCAB
    own = params + tl.load(rows + row)
    temperature = _float(own, stride_params, _TEMPERATURE)
    factor = inverse_temperature(temperature)
    chunks = tl.arange(0, CHUNKS_SIZE)
    real = chunks < CHUNKS
    maxima = tl.load(chunk_max + row * CHUNKS + chunks, mask=real, other=float("-inf"))
    sums = tl.load(chunk_sum + row * CHUNKS + chunks, mask=real, other=0.0)
    row_max = tl.max(maxima)
    sums *= relative_weights(maxima, row_max, factor)
    total = tl.sum(sums)

    token_id = tl.full((), -1, tl.int32)
    # It is NaN if the maximum is infinite or anything in the row is NaN.
    if total > 0.0:
        if temperature > 0.0:
            number = random_number(own, stride_params)
            top_k, top_p, min_weight = _filters(own, stride_params, total)
            if _is_filtered(top_k, top_p, min_weight, VOCAB):
                scratch = row * BLOCKS
                token_id = draw_filtered(
                    *(start, block_max + scratch, block_ids + scratch, block_sum + scratch),
                    *(row_max, factor, total, number, top_k, top_p, min_weight),
                    *(VOCAB, BLOCK, BLOCKS, BLOCKS_SIZE, HELD, TILE),
                )
            else:
                chunk, rest = pick_share(sums, number)
                everything = order_key(tl.full((), float("-inf"), tl.float32))
                token_id = token_within(
                    *(start, chunk * CHUNK, row_max, factor, everything, 0.0, rest, VOCAB, CHUNK)
                )
        else:
            chunk = tl.min(tl.where(maxima == row_max, chunks, CHUNKS))
            ids = chunk * CHUNK + tl.arange(0, CHUNK)
            values = tl.load(start + ids, mask=ids < VOCAB, other=float("-inf")).to(tl.float32)
            token_id = tl.min(tl.where(values == row_max, ids, VOCAB))
    tl.store(token_ids + row, token_id)
