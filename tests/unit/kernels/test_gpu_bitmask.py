"""A grammar's bitmask forbids ids of the rows that are named, and of no others."""

import numpy as np
import pytest
import torch

from engine_service.kernels.gpu.sampling.bitmask import apply_bitmask
from support.twins.gpu_twins import DEVICE, NAN


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocab_size", [31, 2049, 4100])
def test_ids_without_a_bit_become_impossible(vocab_size: int, dtype: torch.dtype) -> None:
    generator = np.random.default_rng(3)
    words = generator.integers(-(2**31), 2**31, (2, -(-vocab_size // 32) + 1)).astype(np.int32)
    bits = np.unpackbits(words.view(np.uint8), axis=1, count=vocab_size, bitorder="little")
    allowed = torch.from_numpy(bits).bool()
    stored = torch.randn(6, vocab_size).to(dtype)
    # Poison: what surrounds the logits, and a value that must be replaced.
    stored[0] = stored[-1] = NAN
    stored[2][~allowed[1]] = NAN
    expected = stored[1:-1].clone()
    for number, row in enumerate((3, 1)):
        expected[row][~allowed[number]] = float("-inf")
    given = stored.to(DEVICE)
    apply_bitmask(
        given[1:-1],
        torch.from_numpy(words).to(DEVICE),
        torch.tensor([3, 1], dtype=torch.int32, device=DEVICE),
    )
    assert torch.equal(given[1:-1].cpu(), expected)
    assert given[0].isnan().all() and given[-1].isnan().all()


def test_no_rows_are_no_work() -> None:
    logits = torch.zeros(1, 40, device=DEVICE)
    nothing = torch.zeros(0, dtype=torch.int32, device=DEVICE)
    apply_bitmask(logits, torch.zeros(1, 2, dtype=torch.int32, device=DEVICE), nothing)
    assert not logits.any()
