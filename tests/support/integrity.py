"""Checks that a scheduler's queues and blocks agree."""

from collections import Counter
from collections.abc import Iterable

from engine_service.core.block_pool import BlockPool
from engine_service.core.scheduler import Scheduler


def check_integrity(scheduler: Scheduler) -> None:
    """Asserts that every block is accounted for, and that nothing is held of what has ended."""
    states, kv = scheduler._states, scheduler._kv
    check_pool(kv._pool, (seq.block_table for seq in states.running.values()))
    for group in states.groups.values():
        for seq in group.made_seqs():
            assert seq.runner_state is not None
            is_scored = seq.request.scored_from is not None
            assert seq.num_tokens == len(seq.token_ids) - is_scored
            assert seq.seq_id not in states.running or seq.seq_id not in states.waiting
            assert seq.seq_id in states.running or not seq.block_table
    assert states.queued_since.keys() <= states.groups.keys()
    if not states.groups:
        assert not states.running and not states.waiting
        assert kv.usage == 0


def check_pool(pool: BlockPool, block_tables: Iterable[Iterable[int]]) -> None:
    """Asserts that references equal `block_tables`, and that free and used make up the pool."""
    references = Counter(block_id for table in block_tables for block_id in table)
    for block_id, ref_cnt in enumerate(pool._ref_cnt):
        assert ref_cnt == references[block_id], f"block {block_id}: {ref_cnt} references"
        assert (ref_cnt == 0) == (block_id in pool._free), f"block {block_id} is misplaced"
    for block_hash, block_id in pool._block_of.items():
        assert pool._hash_of[block_id] == block_hash
    assert len(pool._block_of) == sum(value is not None for value in pool._hash_of)
