"""GatheredRows: memory for keys and values that is used again."""

import torch

from engine_service.layers.attention.backend import KVCache
from engine_service.layers.attention.gathered import GatheredRows

SHAPE = (8, 2, 4, 3)  # blocks, heads, block size, head dim


def cache(dtype: torch.dtype = torch.float32) -> KVCache:
    numbers = torch.arange(8 * 2 * 4 * 3, dtype=dtype).view(SHAPE)
    return KVCache(numbers, -numbers)


def test_rows_are_copied_in_their_order_into_the_same_memory() -> None:
    gathered, source = GatheredRows(), cache()
    rows = torch.tensor([4, 2, 9, 0])
    key, value = gathered.gather(source, rows, (2, 2, 4, 3))
    flat = source.key.flatten(0, 1)
    assert torch.equal(key.flatten(0, 1), flat[rows])
    assert torch.equal(value.flatten(0, 1), -flat[rows])
    place = key.data_ptr()
    value.fill_(7)  # the caller's to change
    again, negative = gathered.gather(source, rows[:2], (1, 2, 4, 3))
    assert again.data_ptr() == place
    assert torch.equal(again[0], flat[rows[:2]]) and torch.equal(negative[0], -flat[rows[:2]])


def test_memory_grows_and_follows_the_caches_type() -> None:
    gathered = GatheredRows()
    gathered.gather(cache(), torch.tensor([1]), (1, 1, 4, 3))
    for source in (cache(), cache(torch.bfloat16)):
        key, _ = gathered.gather(source, torch.arange(16), SHAPE)
        assert key.dtype == source.key.dtype
        assert torch.equal(key, source.key)
