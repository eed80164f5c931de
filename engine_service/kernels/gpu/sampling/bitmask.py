"""Forbids on a GPU what a grammar's bitmask does not allow."""

import triton
import triton.language as tl
from torch import Tensor

from engine_service.kernels.gpu.launching import launch_options, overlap_launch

_SIZE = 2048


def apply_bitmask(logits: Tensor, bitmask: Tensor, rows: Tensor) -> None:
    """Sets to -inf, in place, the logits of some rows whose bit is 0.

    `logits` is [R, vocab_size] in any floating type, `rows` int32 [M] says which of its rows are
    meant, and `bitmask` int32 [M, words] has at least ceil(vocab_size / 32) words for each of them,
    all contiguous; the bit of id i is that of 2**(i % 32) in word i // 32.
    """
    num_rows, vocab_size = len(rows), logits.shape[1]
    if num_rows:
        _apply_bitmask[(triton.cdiv(vocab_size, _SIZE), num_rows)](
            *(logits, bitmask, rows, vocab_size, bitmask.shape[1]),
            SIZE=_SIZE,
            num_warps=4,
            **launch_options(logits.device),
        )


@triton.jit
def _apply_bitmask(
    logits, bitmask, rows, vocab_size, num_words, SIZE: tl.constexpr, OVERLAP: tl.constexpr
):
    overlap_launch(OVERLAP)
    number = tl.program_id(1).to(tl.int64)
    row = tl.load(rows + number).to(tl.int64)
    ids = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    words = tl.load(bitmask + number * num_words + ids // 32, mask=ids < vocab_size, other=-1)
    forbidden = ((words >> (ids % 32)) & 1) == 0
    nothing = tl.full((SIZE,), float("-inf"), tl.float32).to(logits.dtype.element_ty)
    tl.store(logits + row * vocab_size + ids, nothing, mask=forbidden & (ids < vocab_size))
