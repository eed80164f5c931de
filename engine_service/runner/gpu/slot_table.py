"""SlotTable: what the device knows of each sequence that decodes, and what it has to be told.

A slot holds a sequence's latest token, its length, its block ids and how its tokens are drawn. All
slots are words of one piece of memory on the device; a step changes a slot on its own, see
`kernels.gpu.state`, and the table foresees that, so that it tells only what the device cannot know.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from engine_service.core.outputs import ScheduledSequence
from engine_service.kernels.gpu.sampling.sampler import DrawParams
from engine_service.seeding import as_signed

_FIELDS = ("last_tokens", "lengths", "index", "temperature", "top_k", "top_p", "min_p")


@dataclass(slots=True)
class _Slot:
    """What the device holds of a sequence, or will when all that is queued is done."""

    seq_id: int
    number: int
    length: int = -1
    block_table: Sequence[int] = ()
    num_blocks: int = 0
    draws: bool = False
    """Whether it holds how to draw."""


@dataclass(slots=True)
class _Changes:
    places: list[int] = field(default_factory=list)
    values: list[int] = field(default_factory=list)


class SlotTable:
    """Slots for `num_slots` sequences, and one that padding rows share, number `num_slots`."""

    def __init__(
        self,
        num_slots: int,
        table_width: int,
        max_rows: int,
        spare_block: int,
        device: torch.device,
    ) -> None:
        """`table_width` blocks of a sequence at most, `max_rows` rows of a step.

        The KV of padding rows goes to `spare_block`, which no sequence has.
        """
        self.num_slots, self.spare_block = num_slots, spare_block
        count = num_slots + 1
        self._width = table_width
        self._starts = {name: 2 * count + i * count for i, name in enumerate(_FIELDS)}
        self._tables_start = (2 + len(_FIELDS)) * count
        self._rows_start = self._tables_start + count * table_width
        size = self._rows_start + max_rows
        self.words = torch.zeros(size, dtype=torch.int32, device=device)
        """All of it, int32."""
        self._numbers: dict[int, _Slot] = {}  # by seq_id, the latest used last
        self._free = list(range(num_slots))
        self._rows: list[int] = []
        self._changes = _Changes()
        spare = self._tables_start + num_slots * table_width
        self.words[spare : spare + table_width] = spare_block

    @property
    def last_tokens(self) -> Tensor:
        """The latest token of each slot, int32 [num_slots + 1]."""
        return self._vector("last_tokens")

    @property
    def lengths(self) -> Tensor:
        """Tokens of each slot's sequence, the latest included, int32 [num_slots + 1]."""
        return self._vector("lengths")

    @property
    def block_tables(self) -> Tensor:
        """int32 [num_slots + 1, table_width]."""
        tables = self.words[self._tables_start : self._rows_start]
        return tables.view(self.num_slots + 1, self._width)

    @property
    def rows(self) -> Tensor:
        """The slot of each row of the present decode step, int32 [max_rows]."""
        return self.words[self._rows_start :]

    @property
    def draw_params(self) -> DrawParams:
        """How to draw after each slot's latest token."""
        floats = {
            name: self._vector(name).view(torch.float32)
            for name in ("temperature", "top_p", "min_p")
        }
        return DrawParams(
            seed=self.words[: 2 * (self.num_slots + 1)].view(torch.int64),
            index=self._vector("index"),
            position=self.lengths,
            top_k=self._vector("top_k"),
            **floats,
        )

    def slot_of(self, seq_id: int) -> int:
        """Where a sequence is that has a slot."""
        return self._numbers[seq_id].number

    def place(self, sequence: ScheduledSequence, step_seq_ids: frozenset[int]) -> int:
        """The slot of a sequence, which draws one token after those that it computes, or none.

        A sequence that has none takes a free one, or that of the one longest unused that is not
        among `step_seq_ids`. What the device lacks is queued.
        """
        slot = self._numbers.pop(sequence.seq_id, None)
        if slot is None:
            slot = _Slot(sequence.seq_id, self._take_number(step_seq_ids))
        self._numbers[sequence.seq_id] = slot
        if sequence.sample_indexes and not slot.draws:
            slot.draws = True
            self._tell_draws(slot.number, sequence)
        if slot.length != sequence.num_tokens:
            slot.length = sequence.num_tokens
            self._tell("last_tokens", slot.number, sequence.token_ids[-1])
            self._tell("lengths", slot.number, slot.length)
        self._tell_blocks(slot, sequence.block_table)
        return slot.number

    def set_rows(self, slots: Sequence[int], num_rows: int) -> None:
        """Says which slots a step's rows have; after the last they are padding up to `num_rows`."""
        rows = [*slots, *[self.num_slots] * (num_rows - len(slots))]
        for row, slot in enumerate(rows):
            if row >= len(self._rows):
                self._rows.append(-1)
            if self._rows[row] != slot:
                self._rows[row] = slot
                self._change(self._rows_start + row, slot)

    def advance(self, sequence: ScheduledSequence) -> None:
        """Notes that the device appends a token to a slot by itself."""
        self._numbers[sequence.seq_id].length += 1

    def take_changes(self) -> np.ndarray | None:
        """What the device must be told before the step, int32 [2, n]: places, then words."""
        if not self._changes.places:
            return None
        changes = np.array([self._changes.places, self._changes.values], dtype=np.int32)
        self._changes = _Changes()
        return changes

    def _take_number(self, step_seq_ids: frozenset[int]) -> int:
        if self._free:
            return self._free.pop()
        oldest = next(seq_id for seq_id in self._numbers if seq_id not in step_seq_ids)
        return self._numbers.pop(oldest).number

    def _tell_draws(self, number: int, sequence: ScheduledSequence) -> None:
        params = sequence.sampling_params
        low, high = np.array([as_signed(sequence.seed)]).view(np.int32).tolist()
        self._change(2 * number, low)
        self._change(2 * number + 1, high)
        self._tell("index", number, sequence.sample_indexes[0])
        self._tell("top_k", number, params.top_k)
        for name in ("temperature", "top_p", "min_p"):
            bits = np.array([getattr(params, name)], dtype=np.float32).view(np.int32)
            self._tell(name, number, int(bits[0]))

    def _tell_blocks(self, slot: _Slot, block_table: Sequence[int]) -> None:
        """A table that grows is told by its new blocks; a new table is another list."""
        if block_table is not slot.block_table:
            slot.block_table, slot.num_blocks = block_table, 0
        start = self._tables_start + slot.number * self._width
        for number in range(slot.num_blocks, len(block_table)):
            self._change(start + number, block_table[number])
        slot.num_blocks = len(block_table)

    def _tell(self, name: str, number: int, value: int) -> None:
        self._change(self._starts[name] + number, value)

    def _change(self, place: int, value: int) -> None:
        self._changes.places.append(place)
        self._changes.values.append(value)

    def _vector(self, name: str) -> Tensor:
        start = self._starts[name]
        return self.words[start : start + self.num_slots + 1]
