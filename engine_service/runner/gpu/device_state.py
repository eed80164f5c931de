"""DeviceState: what the device knows of each sequence that decodes, and what to upload to it.

A sequence's state is its latest token, its length, its block ids and how its tokens are drawn. All
states are words of one piece of memory on the device. A step updates them by itself, see
`kernels.gpu.state`; the host predicts that, and uploads only what the device cannot know.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from engine_service.core.outputs import ScheduledSequence
from engine_service.draw_fields import DRAW_WORDS
from engine_service.kernels.gpu.state.sequence_states import set_words
from engine_service.runner.device_copy import Uploads
from engine_service.runner.gpu.drawing import Draw, pack_draws

_POSITION = DRAW_WORDS.index("position")


@dataclass(slots=True)
class _SequenceState:
    """What the device holds of a sequence, or will once all that is queued has run."""

    index: int
    length: int = -1
    block_table: Sequence[int] = ()
    num_blocks: int = 0
    draws: bool = False
    """Whether it holds how to draw."""


class DeviceState:
    """The states of `num_states` sequences, and one that padding rows share, at that index."""

    def __init__(
        self,
        num_states: int,
        table_width: int,
        max_rows: int,
        spare_block: int,
        device: torch.device,
    ) -> None:
        """For up to `table_width` blocks a sequence and `max_rows` rows a step.

        The KV of padding rows goes to `spare_block`, which no sequence has.
        """
        self.num_states, self.spare_block = num_states, spare_block
        self._count, self._width = num_states + 1, table_width
        self._last_tokens_start = len(DRAW_WORDS) * self._count
        self._tables_start = self._last_tokens_start + self._count
        self._rows_start = self._tables_start + self._count * table_width
        size = self._rows_start + max_rows
        self.words = torch.zeros(size, dtype=torch.int32, device=device)
        """All of it, int32."""
        self.draw_params = self.words[: self._last_tokens_start].view(len(DRAW_WORDS), self._count)
        """How to draw after each latest token: DRAW_WORDS, int32 [words, num_states + 1]."""
        self.lengths = self.draw_params[_POSITION]
        """Tokens of each sequence, the latest included, int32 [num_states + 1]."""
        self.last_tokens = self.words[self._last_tokens_start : self._tables_start]
        """The latest token of each sequence, int32 [num_states + 1]."""
        self.block_tables = self.words[self._tables_start : self._rows_start].view(self._count, -1)
        """int32 [num_states + 1, table_width]"""
        self.rows = self.words[self._rows_start :]
        """The state index of each row of the present decode step, int32 [max_rows]."""
        self.block_tables[num_states] = spare_block
        # Twice all words, since each change is an index and a value.
        self._uploads = Uploads(2 * size, device)
        self._states: dict[int, _SequenceState] = {}  # by seq_id, the latest used last
        self._free = list(range(num_states))
        self._rows: list[int] = []
        self._changes: dict[int, int] = {}

    def index_of(self, seq_id: int) -> int:
        """The state index of a sequence that has one."""
        return self._states[seq_id].index

    def assign(self, sequence: ScheduledSequence, step_seq_ids: frozenset[int]) -> int:
        """The state index of a sequence, which draws at most one token after those it computes.

        A sequence that has none gets a free one, or takes over the least recently used one that is
        not among `step_seq_ids`. What the device lacks is queued for upload.
        """
        state = self._states.pop(sequence.seq_id, None)
        if state is None:
            state = _SequenceState(self._free_index(step_seq_ids))
        self._states[sequence.seq_id] = state
        if sequence.sample_indexes and not state.draws:
            state.draws = True
            words = pack_draws([Draw(sequence, sequence.sample_indexes[0])])
            for word, value in enumerate(words[:, 0].tolist()):
                self._changes[word * self._count + state.index] = value
        if state.length != sequence.num_tokens:
            state.length = sequence.num_tokens
            self._changes[self._last_tokens_start + state.index] = sequence.token_ids[-1]
            self._changes[_POSITION * self._count + state.index] = state.length
        self._queue_blocks(state, sequence.block_table)
        return state.index

    def set_rows(self, state_indexes: Sequence[int], num_rows: int) -> None:
        """Sets the state of each of a step's rows; those after are padding up to `num_rows`."""
        rows = [*state_indexes, *[self.num_states] * (num_rows - len(state_indexes))]
        for row, index in enumerate(rows):
            if row >= len(self._rows):
                self._rows.append(-1)
            if self._rows[row] != index:
                self._rows[row] = index
                self._changes[self._rows_start + row] = index

    def advance(self, sequence: ScheduledSequence) -> None:
        """Notes that the device appends a token to a sequence by itself."""
        self._states[sequence.seq_id].length += 1

    def upload_changes(self) -> None:
        """Brings the device up to date, in order with what else is launched."""
        changes = self.drain_changes()
        if changes is not None:
            set_words(self.words, self._uploads.send(changes.reshape(-1)).view(2, -1))

    def drain_changes(self) -> NDArray[np.int32] | None:
        """What the device lacks, int32 [2, n]: indexes of words, then their values."""
        if not self._changes:
            return None
        changes = np.array([[*self._changes], [*self._changes.values()]], dtype=np.int32)
        self._changes.clear()
        return changes

    def _free_index(self, step_seq_ids: frozenset[int]) -> int:
        if self._free:
            return self._free.pop()
        oldest = next(seq_id for seq_id in self._states if seq_id not in step_seq_ids)
        return self._states.pop(oldest).index

    def _queue_blocks(self, state: _SequenceState, block_table: Sequence[int]) -> None:
        """Of a table that grows, the new blocks; a new table is another list."""
        if block_table is not state.block_table:
            state.block_table, state.num_blocks = block_table, 0
        start = self._tables_start + state.index * self._width
        for number in range(state.num_blocks, len(block_table)):
            self._changes[start + number] = block_table[number]
        state.num_blocks = len(block_table)
