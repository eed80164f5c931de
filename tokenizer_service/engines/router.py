"""Router: which replica a request goes to.

Replicas keep the KV of prompts in blocks, and find a prompt's leading blocks again. So a prompt
goes to the replica that was last given the longest beginning of it, unless that has so much more to
compute than the least loaded one that the cached tokens do not make up for it.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

# Leading blocks of a prompt that count; hashing them takes well below a millisecond.
_MOST_PROMPT_BLOCKS = 512
# Blocks that are remembered: those of a million tokens in blocks of 16.
_MOST_BLOCKS = 65_536


@dataclass(eq=False, slots=True)
class _Replica:
    name: str
    gone: bool = False


class Router:
    """Remembers which replica was given which blocks, the latest ones up to a number."""

    def __init__(self, max_blocks: int = _MOST_BLOCKS) -> None:
        self._max_blocks = max_blocks
        # By the hash of a block and all before it, oldest first. A prompt's first block is newer
        # than its later ones, which are of no use without it.
        self._owners: OrderedDict[int, _Replica] = OrderedDict()
        self._replicas: dict[str, _Replica] = {}

    def __len__(self) -> int:
        return len(self._owners)

    def choose(
        self, prompt: Sequence[int], cache_salt: str, block_size: int, loads: Mapping[str, int]
    ) -> str:
        """The replica for a prompt, which from now on has its blocks.

        `loads` has the outstanding tokens of each replica that may be chosen, at least one of them.
        Blocks are shared only among equal salts.
        """
        hashes = _block_hashes(prompt, cache_salt, block_size)
        num_known, owner = self._longest_match(hashes)
        least = min(loads, key=loads.__getitem__)
        # On the owner the prompt waits for more, on the least loaded it has more to compute.
        stays = owner in loads and loads[owner] - loads[least] <= num_known * block_size
        chosen = owner if stays else least
        self._remember(hashes, chosen)
        return chosen

    def forget(self, replica: str) -> None:
        """Forgets all blocks of a replica that is gone."""
        # They stay where they are until their turn comes; there may be too many to go through.
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
    most = min(len(prompt) // block_size, _MOST_PROMPT_BLOCKS)
    head = tuple(prompt[: most * block_size])
    ends = range(0, len(head) + 1, block_size)
    hashes = []
    block_hash = hash(cache_salt)
    for begin, end in pairwise(ends):
        block_hash = hash((block_hash, head[begin:end]))
        hashes.append(block_hash)
    return hashes
