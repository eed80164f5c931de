"""KVCacheManager: which blocks hold which sequence's KV, and what can be shared.

Prefix cache: a block's hash covers its tokens and the hash of the block before it, so equal hashes
mean equal KV from the start of the prompt. The first link of the chain is the request's cache_salt.
Only full blocks are shared, and nothing writes to a full block, so sharing needs no copies. The
hashes of tokens that sequences share are computed once for all of them.
"""

from hashlib import blake2b

from engine_service.core.block_pool import BlockPool
from engine_service.core.request import Sequence


class KVCacheManager:
    """Allocates blocks to sequences and frees them."""

    def __init__(self, num_blocks: int, block_size: int, enable_prefix_caching: bool) -> None:
        self.block_size = block_size
        self._enable_prefix_caching = enable_prefix_caching
        self._pool = BlockPool(num_blocks)
        self._pending_copies: list[tuple[int, int]] = []

    @property
    def num_free_blocks(self) -> int:
        """Blocks that no sequence holds."""
        return self._pool.num_free_blocks

    @property
    def usage(self) -> float:
        """Share of the blocks that sequences hold, 0 to 1."""
        return 1 - self.num_free_blocks / self._pool.num_blocks

    def num_blocks_for(self, num_tokens: int) -> int:
        """Blocks that hold the KV of so many tokens."""
        return -(-num_tokens // self.block_size)

    def start(self, seq: Sequence, max_cached_tokens: int | None = None) -> bool:
        """Lets a sequence without KV share its cached prefix, of at most `max_cached_tokens`.

        False, with nothing shared, if the pool could not hold all of its tokens now: it would only
        be preempted. At least the last token is left to compute, since its logits are wanted.
        """
        assert not seq.block_table and seq.num_computed_tokens == 0
        limit = seq.num_tokens - 1
        if max_cached_tokens is not None:
            limit = min(limit, max_cached_tokens)
        shared = self._cached_prefix(seq, limit)
        num_free = self.num_free_blocks - sum(self._pool.is_free(block) for block in shared)
        if self.num_blocks_for(seq.num_tokens) - len(shared) > num_free:
            return False
        for block_id in shared:
            self._pool.share(block_id)
        seq.block_table = shared
        seq.num_computed_tokens = len(shared) * self.block_size
        return True

    def allocate_slots(self, seq: Sequence, num_new_tokens: int) -> bool:
        """Allocates blocks for the next tokens; False, with none allocated, if too few are free."""
        needed = self.num_blocks_for(seq.num_computed_tokens + num_new_tokens)
        num_new_blocks = needed - len(seq.block_table)
        if num_new_blocks <= 0:
            return True
        if num_new_blocks > self.num_free_blocks:
            return False
        for _ in range(num_new_blocks):
            seq.block_table.append(self._pool.allocate())
        return True

    def num_free_slots(self, seq: Sequence) -> int:
        """Tokens whose KV could be allocated now, after those that are computed."""
        max_blocks = len(seq.block_table) + self.num_free_blocks
        return max_blocks * self.block_size - seq.num_computed_tokens

    def trim(self, seq: Sequence) -> None:
        """Frees the blocks that hold no computed KV."""
        while len(seq.block_table) > self.num_blocks_for(seq.num_computed_tokens):
            self._pool.release(seq.block_table.pop())

    def cache_blocks(self, seq: Sequence, num_computed_before: int) -> None:
        """Enters the full blocks that a step completed into the prefix index."""
        if not self._enable_prefix_caching:
            return
        first = num_computed_before // self.block_size
        end = seq.num_computed_tokens // self.block_size
        if first == end:
            return
        hashes = self._hashes(seq, first, end)
        for block_id, block_hash in zip(seq.block_table[first:end], hashes, strict=True):
            self._pool.cache(block_id, block_hash)

    def fork(self, parent: Sequence, child: Sequence, num_tokens: int) -> bool:
        """Lets `child` share the blocks of the parent's first tokens, with a copy of a partial one.

        They are computed, and `child` begins with them.

        The copy is made at the start of the next step. It may then hold KV of the parent's later
        tokens too, also of a step in flight, in slots that the child writes before it reads them.
        False, with nothing shared, if the pool could not hold all of the child's tokens now; it
        then computes its KV itself.
        """
        num_full, partial = divmod(num_tokens, self.block_size)
        if self.num_blocks_for(child.num_tokens) - num_full > self.num_free_blocks:
            return False
        child.block_table = parent.block_table[:num_full]
        for block_id in child.block_table:
            self._pool.share(block_id)
        if partial:
            target = self._pool.allocate()
            # A source may itself be a target that is not written yet: copies keep their order.
            self._pending_copies.append((parent.block_table[num_full], target))
            child.block_table.append(target)
        child.num_computed_tokens = num_tokens
        if self._enable_prefix_caching:
            self._inherit_hashes(parent, child)
        return True

    def free(self, seq: Sequence) -> None:
        """Frees all blocks, the last first, so that a prefix outlives what follows it."""
        for block_id in reversed(seq.block_table):
            self._pool.release(block_id)
        seq.block_table = []
        seq.num_computed_tokens = 0

    def uncache(self, seq: Sequence) -> None:
        """Takes a sequence's blocks out of the prefix index."""
        for block_id in seq.block_table:
            self._pool.uncache(block_id)

    def reset_prefix_cache(self) -> bool:
        """Forgets all cached prefixes; False, with nothing changed, if a sequence holds KV."""
        return self._pool.reset_prefix_index()

    def drain_block_copies(self) -> tuple[tuple[int, int], ...]:
        """The (source, target) copies that the next step must make first, in order.

        A target may have been freed and reallocated: its present owner writes to it later.
        """
        copies = tuple(self._pending_copies)
        self._pending_copies.clear()
        return copies

    def _cached_prefix(self, seq: Sequence, max_tokens: int) -> list[int]:
        """The blocks of the longest cached prefix of at most so many tokens."""
        if not self._enable_prefix_caching:
            return []
        blocks = []
        for block_hash in self._hashes(seq, 0, max_tokens // self.block_size):
            block_id = self._pool.lookup(block_hash)
            if block_id is None:
                break
            blocks.append(block_id)
        return blocks

    def _hashes(self, seq: Sequence, first: int, end: int) -> list[bytes]:
        """Those of the full blocks from `first` to before `end`, which the sequence has."""
        token_ids, own = seq.token_ids, seq.block_hashes
        shared = self._shared_hashes(seq)
        num_shared = len(token_ids.shared.ids) // self.block_size
        for index in range(len(shared) + len(own), end):
            hashes = shared if index < num_shared else own
            previous = (own or shared or [_digest(seq.request.cache_salt.encode())])[-1]
            start = index * self.block_size
            tokens = token_ids.part(start, start + self.block_size)
            hashes.append(_digest(previous + tokens.tobytes()))
        if end <= num_shared:
            return shared[first:end]
        return shared[first:] + own[max(first - num_shared, 0) : end - num_shared]

    def _shared_hashes(self, seq: Sequence) -> list[bytes]:
        """The hashes of full blocks of the tokens that a sequence shares, as far as computed."""
        key = self.block_size, seq.request.cache_salt
        return seq.token_ids.shared.block_hashes.setdefault(key, [])

    def _inherit_hashes(self, parent: Sequence, child: Sequence) -> None:
        """Takes over what is known of the blocks of a parent, if all its tokens are now shared."""
        hashes = self._shared_hashes(child)
        if not hashes and child.token_ids.shared is not parent.token_ids.shared:
            hashes += self._shared_hashes(parent)
            hashes += parent.block_hashes


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=16).digest()
