import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine_service.core.block_pool import BlockPool
from support.integrity import check_pool


def test_the_block_that_was_free_longest_is_taken_first() -> None:
    pool = BlockPool(3)
    first, second, third = (pool.allocate() for _ in range(3))
    for block_id in (second, first, third):
        pool.cache(block_id, bytes([block_id]))
        pool.release(block_id)
    assert [pool.allocate() for _ in range(3)] == [second, first, third]


def test_a_block_with_nothing_to_lose_is_taken_before_all_others() -> None:
    pool = BlockPool(3)
    first, second, third = (pool.allocate() for _ in range(3))
    pool.cache(first, b"first")
    pool.cache(third, b"third")
    for block_id in (first, second, third):
        pool.release(block_id)
    assert [pool.allocate() for _ in range(3)] == [second, first, third]


def test_a_free_block_keeps_its_contents_until_it_is_taken() -> None:
    pool = BlockPool(2)
    block_id = pool.allocate()
    pool.cache(block_id, b"prompt")
    pool.release(block_id)
    assert pool.lookup(b"prompt") == block_id and pool.is_free(block_id)
    pool.share(block_id)
    assert not pool.is_free(block_id)
    pool.release(block_id)
    pool.allocate(), pool.allocate()
    assert pool.lookup(b"prompt") is None


def test_of_two_equal_blocks_the_first_is_found() -> None:
    pool = BlockPool(2)
    first, second = pool.allocate(), pool.allocate()
    pool.cache(first, b"same")
    pool.cache(second, b"same")
    assert pool.lookup(b"same") == first
    pool.release(second)
    check_pool(pool, [[first]])


def test_a_free_block_cannot_be_released() -> None:
    with pytest.raises(AssertionError, match="free already"):
        BlockPool(1).release(0)


def test_an_emptied_index_finds_nothing_and_is_filled_anew() -> None:
    pool = BlockPool(2)
    block_id = pool.allocate()
    pool.cache(block_id, b"prompt")
    assert not pool.reset_prefix_index() and pool.lookup(b"prompt") == block_id
    pool.release(block_id)
    assert pool.reset_prefix_index() and pool.lookup(b"prompt") is None
    check_pool(pool, [])
    again = [pool.allocate(), pool.allocate()]
    pool.cache(again[1], b"prompt")
    assert pool.lookup(b"prompt") == again[1]


class BlockPoolMachine(RuleBasedStateMachine):
    """Any order of calls leaves references, free list and prefix index in agreement."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(6)
        self.held: list[int] = []

    @precondition(lambda self: self.pool.num_free_blocks)
    @rule()
    def allocate(self) -> None:
        block_id = self.pool.allocate()
        assert block_id not in self.held
        self.held.append(block_id)

    @precondition(lambda self: self.held)
    @rule(index=st.integers(0, 100))
    def release(self, index: int) -> None:
        block_id = self.held.pop(index % len(self.held))
        self.pool.release(block_id)
        assert self.pool.is_free(block_id) == (block_id not in self.held)

    @precondition(lambda self: self.held)
    @rule(index=st.integers(0, 100), contents=st.binary(min_size=1, max_size=1))
    def cache(self, index: int, contents: bytes) -> None:
        block_id = self.held[index % len(self.held)]
        if self.pool._hash_of[block_id] is None:
            self.pool.cache(block_id, contents)
            assert self.pool.lookup(contents) is not None

    @rule(contents=st.binary(min_size=1, max_size=1))
    def share(self, contents: bytes) -> None:
        block_id = self.pool.lookup(contents)
        if block_id is not None:
            self.pool.share(block_id)
            self.held.append(block_id)

    @rule()
    def reset(self) -> None:
        assert self.pool.reset_prefix_index() == (not self.held)

    @invariant()
    def agrees(self) -> None:
        check_pool(self.pool, [self.held])
        assert self.pool.num_free_blocks == 6 - len(set(self.held))


BlockPoolMachine.TestCase.settings = settings(max_examples=60, deadline=None)
TestBlockPool = BlockPoolMachine.TestCase
