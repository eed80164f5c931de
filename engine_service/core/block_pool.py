"""BlockPool: the KV cache's blocks as numbers, with reference counts and a prefix index.

A block is *used* while a sequence refers to it, else *free*. A free block keeps its contents and
its entry in the prefix index until it is reallocated. Blocks without an entry are reallocated
first, then those that have been free the longest.
"""

from collections import OrderedDict


class BlockPool:
    """Allocates block ids 0 to num_blocks - 1."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._ref_cnt = [0] * num_blocks
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))
        self._hash_of: list[bytes | None] = [None] * num_blocks
        self._block_of: dict[bytes, int] = {}

    @property
    def num_free_blocks(self) -> int:
        """Blocks that no sequence refers to."""
        return len(self._free)

    def is_free(self, block_id: int) -> bool:
        """Whether no sequence refers to the block."""
        return block_id in self._free

    def allocate(self) -> int:
        """A free block, now with one reference and without its old contents.

        The caller has made sure that there is one.
        """
        block_id, _ = self._free.popitem(last=False)
        self.uncache(block_id)
        self._ref_cnt[block_id] = 1
        return block_id

    def share(self, block_id: int) -> None:
        """Adds a reference to a block, free or used."""
        if self._ref_cnt[block_id] == 0:
            del self._free[block_id]
        self._ref_cnt[block_id] += 1

    def release(self, block_id: int) -> None:
        """Drops a reference; a block without any is free."""
        assert self._ref_cnt[block_id] > 0, f"block {block_id} is free already"
        self._ref_cnt[block_id] -= 1
        if not self._ref_cnt[block_id]:
            self._free[block_id] = None
            if self._hash_of[block_id] is None:
                self._free.move_to_end(block_id, last=False)

    def cache(self, block_id: int, block_hash: bytes) -> None:
        """Enters a full block into the prefix index, unless it has an equal one."""
        if block_hash not in self._block_of:
            self._block_of[block_hash] = block_id
            self._hash_of[block_id] = block_hash

    def uncache(self, block_id: int) -> None:
        """Takes a block out of the prefix index, if it is there."""
        block_hash = self._hash_of[block_id]
        if block_hash is not None:
            del self._block_of[block_hash]
            self._hash_of[block_id] = None

    def lookup(self, block_hash: bytes) -> int | None:
        """The block with these contents, free or used, if there is one."""
        return self._block_of.get(block_hash)

    def reset_prefix_index(self) -> bool:
        """Empties the prefix index; False, with nothing changed, if any block is used.

        Of a sequence that runs on, later blocks would be entered after blocks that are gone.
        """
        if self.num_free_blocks < self.num_blocks:
            return False
        self._block_of.clear()
        self._hash_of = [None] * self.num_blocks
        return True
