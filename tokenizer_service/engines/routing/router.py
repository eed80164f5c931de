"""Router: which replica a request goes to.

Replicas cache the KV of prompts in blocks. So a prompt goes to the replica that was last given the
longest prefix of it, unless that has so much more to compute than the least loaded one that the
cached tokens do not make up for it.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Leading blocks of a prompt that count; hashing them takes well below a millisecond.
_MAX_PROMPT_BLOCKS = 512
# Blocks that are remembered: a million tokens in blocks of 16.
_MAX_BLOCKS = 65_536


@dataclass(eq=False, slots=True)
class _Replica:
    name: str
    gone: bool = False


class Router:
    """Remembers which replica was last given which blocks, up to `max_blocks` of the latest."""

    def __init__(self, max_blocks: int = _MAX_BLOCKS) -> None:
        self._max_blocks = max_blocks
        # By the hash of a block and all before it, oldest first. A prompt's first block counts as
        # newer than its later ones, which are useless without it.
        self._owners: OrderedDict[int, _Replica] = OrderedDict()
        self._replicas: dict[str, _Replica] = {}

    def __len__(self) -> int:
        return len(self._owners)

    def choose(
        self, prompt: Sequence[int], cache_salt: str, block_size: int, loads: Mapping[str, int]
    ) -> str:
        """The replica for a prompt, which owns its blocks from now on.

        `loads` has the outstanding tokens of each replica that may be chosen, at least one. Blocks
        are shared only between equal salts.
        """
        hashes = _block_hashes(prompt, cache_salt, block_size)
        num_known, owner = self._longest_match(hashes)
        least_loaded = min(loads, key=loads.__getitem__)
        # On the owner the prompt waits longer; on the least loaded one more of it is computed.
        stays = owner in loads and loads[owner] - loads[least_loaded] <= num_known * block_size
        chosen = owner if stays else least_loaded
        self._remember(hashes, chosen)
        return chosen

    def forget(self, replica: str) -> None:
        """Forgets all blocks of a replica that is gone."""
        # There may be too many to search; they are dropped when they become the oldest.
        if replica in self._replicas:
            self._replicas.pop(replica).gone = True

    def _remember(self, hashes: Sequence[int], name: str) -> None:
        replica = self._replicas.setdefault(name, _Replica(name))
        for block_hash in reversed(hashes):
            self._owners[block_hash] = replica
            self._owners.move_to_end(block_hash)
        while len(self._owners) > self._max_blocks:
            self._owners.popitem(last=False)

    def _longest_match(self, hashes: Sequence[int]) -> tuple[int, str]:
        """How many leading blocks are known, and the replica of the last of them."""
        num_known, owner = 0, ""
        for block_hash in hashes:
            known = self._owners.get(block_hash)
            if known is None or known.gone:
                break
            num_known, owner = num_known + 1, known.name
        return num_known, owner


def _block_hashes(prompt: Sequence[int], cache_salt: str, block_size: int) -> list[int]:
    """A hash for each full leading block, over it and all before it."""
    if block_size < 1:
        return []
    num_blocks = min(len(prompt) // block_size, _MAX_PROMPT_BLOCKS)
    hashes = []
    block_hash = hash(cache_salt)
    for start in range(0, num_blocks * block_size, block_size):
        block_hash = hash((block_hash, *prompt[start : start + block_size]))
        hashes.append(block_hash)
    return hashes
