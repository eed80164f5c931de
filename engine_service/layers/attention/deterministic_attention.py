"""Paged attention whose result for a query depends only on its own sequence, to the last bit.

The queries of a sequence are cut into tiles of QUERY_TILE tokens, its keys into blocks of KEY_BLOCK
tokens counted from the sequence's beginning, whatever the cache's own block_size. TILES tiles are
computed together, against one block of keys after another, with the running maximum and sum of
online softmax (Milakov and Gimelshein, 2018) in float32. So all operands have one shape, and
every query reads its keys in one order. A block that lies wholly after a query adds exact zeros.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from engine_service.layers.attention.backend import AttentionMetadata, KVCache
from engine_service.layers.attention.paged_cache import PagedCache, slot_rows, write_rows

# A compromise: larger tiles waste more on a decoding token and read a prompt's keys less often.
QUERY_TILE = 8
KEY_BLOCK = 64
TILES = 4
_FUTURE = float("-inf")


@dataclass(frozen=True, slots=True)
class TileGroup:
    """TILES tiles of queries of similar reach; tensors are int64 on the model's device."""

    query_rows: Tensor
    """Rows of the batch, [TILES * QUERY_TILE]; T, one past the batch, stands for no query."""
    positions: Tensor
    """Positions of the queries in their sequences, [TILES, QUERY_TILE]."""
    sequences: Tensor
    """Whose queries they are, [TILES]."""
    seq_lens: Tensor
    """Tokens of those sequences, [TILES]."""
    num_key_blocks: int
    """Blocks of keys that the last query sees."""


@dataclass(frozen=True, slots=True)
class TilePlan:
    """One step: where KV is written, and the tiles of its queries."""

    write_rows: Tensor
    """See `write_rows` of paged_cache."""
    slots: Tensor
    """The slot of every position of every sequence, [B, a multiple of KEY_BLOCK]; any valid one
    past a sequence's end."""
    groups: tuple[TileGroup, ...]


@dataclass(frozen=True, slots=True)
class _Tile:
    """Up to QUERY_TILE queries of a sequence, from batch row `start` to `end`."""

    sequence: int
    start: int
    end: int
    position: int
    """Of the first query."""

    @property
    def reach(self) -> int:
        """Keys that the last query sees."""
        return self.position + self.end - self.start


class DeterministicAttention(PagedCache):
    """The AttentionBackend that fixes every shape."""

    def plan(self, metadata: AttentionMetadata, num_kv_heads: int) -> TilePlan:
        """See AttentionBackend."""
        tiles = sorted(_tiles(metadata), key=lambda tile: tile.reach)
        groups = (tiles[first : first + TILES] for first in range(0, len(tiles), TILES))
        return TilePlan(
            write_rows=write_rows(metadata, num_kv_heads),
            slots=_slots(metadata),
            groups=tuple(_group(group, metadata) for group in groups),
        )

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, cache: KVCache, plan: TilePlan
    ) -> Tensor:
        """See AttentionBackend."""
        num_tokens, _, head_dim = query.shape
        # One more row, for the queries that a tile lacks.
        scaled = functional.pad(query.float() * head_dim**-0.5, (0, 0, 0, 0, 0, 1))
        output = torch.empty_like(scaled)
        for group in plan.groups:
            tiles = scaled.index_select(0, group.query_rows)
            output.index_copy_(0, group.query_rows, _attend(tiles, cache, plan.slots, group))
        return output[:num_tokens].to(query.dtype)


def _tiles(metadata: AttentionMetadata) -> Iterator[_Tile]:
    for sequence, seq_len in enumerate(metadata.seq_lens):
        first, end = metadata.query_start_loc[sequence : sequence + 2]
        for start in range(first, end, QUERY_TILE):
            position = seq_len - (end - start)
            yield _Tile(sequence, start, min(start + QUERY_TILE, end), position)


def _group(tiles: list[_Tile], metadata: AttentionMetadata) -> TileGroup:
    """Pads the tiles to TILES with copies of the first that have no queries."""
    num_tokens = metadata.query_start_loc[-1]
    filled = tiles + [tiles[0]] * (TILES - len(tiles))
    rows = [
        row if index < len(tiles) and row < tile.end else num_tokens
        for index, tile in enumerate(filled)
        for row in range(tile.start, tile.start + QUERY_TILE)
    ]
    columns = [(tile.position, tile.sequence, metadata.seq_lens[tile.sequence]) for tile in filled]
    device = metadata.slot_mapping.device
    positions, sequences, seq_lens = torch.tensor(columns, device=device).unbind(-1)
    return TileGroup(
        query_rows=torch.tensor(rows, device=device),
        positions=positions[:, None] + torch.arange(QUERY_TILE, device=device),
        sequences=sequences,
        seq_lens=seq_lens,
        num_key_blocks=-(-max(tile.reach for tile in tiles) // KEY_BLOCK),
    )


def _slots(metadata: AttentionMetadata) -> Tensor:
    """The slots of a TilePlan."""
    size, tables = metadata.block_size, metadata.block_tables
    length = -(-max(metadata.seq_lens) // KEY_BLOCK) * KEY_BLOCK
    positions = torch.arange(length, device=tables.device)
    blocks = tables[:, (positions // size).clamp_(max=tables.shape[1] - 1)]
    return blocks * size + positions % size


def _attend(query: Tensor, cache: KVCache, slots: Tensor, group: TileGroup) -> Tensor:
    """Attention of a group's queries, [TILES * QUERY_TILE, num_heads, head_dim] in float32."""
    _, num_heads, head_dim = query.shape
    kv_heads = cache.key.shape[1]
    shared = num_heads // kv_heads
    # One matrix for each key head of each tile: its tokens' query heads are the rows.
    tiles = query.view(TILES, QUERY_TILE, kv_heads, shared, head_dim).transpose(1, 2)
    tiles = tiles.reshape(TILES * kv_heads, QUERY_TILE * shared, head_dim)
    highest = tiles.new_full((*tiles.shape[:2], 1), _FUTURE)
    total, mixed = torch.zeros_like(highest), torch.zeros_like(tiles)
    for first in range(0, group.num_key_blocks * KEY_BLOCK, KEY_BLOCK):
        key, value = _key_block(cache, slots[:, first : first + KEY_BLOCK], first, group)
        scores = torch.bmm(tiles, key.transpose(1, 2))
        _hide_future(scores.view(TILES, kv_heads, QUERY_TILE, shared, KEY_BLOCK), first, group)
        # Every query sees the first key, so that the maximum is a number from the first block on.
        risen = torch.maximum(highest, scores.amax(-1, keepdim=True))
        weights = (scores - risen).exp_()
        kept = (highest - risen).exp_()
        total = total * kept + weights.sum(-1, keepdim=True)
        mixed = mixed * kept + torch.bmm(weights, value)
        highest = risen
    output = (mixed / total).view(TILES, kv_heads, QUERY_TILE, shared, head_dim)
    return output.transpose(1, 2).reshape(query.shape)


def _key_block(
    cache: KVCache, slots: Tensor, first: int, group: TileGroup
) -> tuple[Tensor, Tensor]:
    """Keys and values of a block, each [TILES * num_kv_heads, KEY_BLOCK, head_dim] in float32."""
    _, kv_heads, block_size, head_dim = cache.key.shape
    rows = slot_rows(slots.index_select(0, group.sequences), kv_heads, block_size)
    rows = rows.transpose(1, 2).flatten()
    shape = (TILES * kv_heads, KEY_BLOCK, head_dim)
    key, value = (
        tensor.view(-1, head_dim).index_select(0, rows).view(shape).float() for tensor in cache[:2]
    )
    # Unwritten slots may hold anything, and 0 * NaN is NaN.
    keys = torch.arange(first, first + KEY_BLOCK, device=slots.device)
    unused = (keys >= group.seq_lens[:, None]).repeat_interleave(kv_heads, dim=0)
    return key, value.masked_fill_(unused[:, :, None], 0.0)


def _hide_future(scores: Tensor, first: int, group: TileGroup) -> None:
    """Masks in [TILES, num_kv_heads, QUERY_TILE, …, KEY_BLOCK] what a query may not see."""
    keys = torch.arange(first, first + KEY_BLOCK, device=scores.device)
    future = keys > group.positions[:, :, None]
    scores.masked_fill_(future[:, None, :, None], _FUTURE)
