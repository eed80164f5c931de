"""MixedInputs: the inputs of a step with several tokens of some sequences, as one row of words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine_service.core.outputs import PENDING_TOKEN, ScheduledSequence

Words = NDArray[np.int32]
_Array = TypeVar("_Array", Tensor, Words)


@dataclass(frozen=True, slots=True)
class InputSizes:
    """How much a step may hold."""

    num_tokens: int
    max_num_seqs: int
    """Sequences with one token, and draws."""
    num_extending: int
    """Sequences with several tokens."""

    def words(self) -> list[int]:
        """Of each field of the inputs."""
        tokens, seqs, extending = self.num_tokens, self.max_num_seqs, self.num_extending
        groups = [seqs, seqs, seqs + 1, extending, extending, extending + 1]
        return [tokens, tokens, tokens, *groups, seqs, seqs]


@dataclass(frozen=True, slots=True)
class MixedInputs(Generic[_Array]):
    """Views of the words, int32: on the device, or on the host where they are written."""

    input_ids: _Array
    """[num_tokens]; a pending token is -1 - its state index."""
    positions: _Array
    slot_mapping: _Array
    decode_lens: _Array
    """[max_num_seqs], as the next; 0 is no sequence."""
    decode_states: _Array
    decode_starts: _Array
    """[max_num_seqs + 1]"""
    extend_lens: _Array
    """[num_extending], as the next."""
    extend_states: _Array
    extend_starts: _Array
    """[num_extending + 1]"""
    sampled_rows: _Array
    """The token after which each draw is made, [max_num_seqs]."""
    sampled_states: _Array
    """The state that it is appended to, [max_num_seqs]."""


def device_inputs(words: Tensor, sizes: InputSizes) -> MixedInputs[Tensor]:
    """The fields at the front of words on the device."""
    parts = sizes.words()
    return MixedInputs(*torch.split(words[: sum(parts)], parts))


def written_inputs(
    scheduled: Sequence[ScheduledSequence],
    state_indexes: Sequence[int],
    sizes: InputSizes,
    block_size: int,
    spare_block: int,
    spare_state: int,
) -> Words:
    """The words of a step of sequences with these states.

    Padding tokens and draws go to the spare block and the spare state.
    """
    parts = sizes.words()
    words = np.zeros(sum(parts), dtype=np.int32)
    fields: MixedInputs[Words] = MixedInputs(*np.split(words, np.cumsum(parts)[:-1]))
    fields.slot_mapping[:] = spare_block * block_size
    fields.sampled_states[:] = spare_state
    decoding = [i for i, sequence in enumerate(scheduled) if len(sequence.token_ids) == 1]
    extending = [i for i, sequence in enumerate(scheduled) if len(sequence.token_ids) > 1]
    row, ends = 0, [0] * len(scheduled)
    for group, lens, states, starts in (
        (decoding, fields.decode_lens, fields.decode_states, fields.decode_starts),
        (extending, fields.extend_lens, fields.extend_states, fields.extend_starts),
    ):
        starts[:] = row
        for number, i in enumerate(group):
            ends[i] = _write_tokens(fields, row, scheduled[i], state_indexes[i], block_size)
            row = ends[i]
            lens[number], states[number] = scheduled[i].num_tokens, state_indexes[i]
            starts[number + 1 :] = row
    drawing = [i for i, sequence in enumerate(scheduled) if sequence.sample_indexes]
    fields.sampled_rows[: len(drawing)] = [ends[i] - 1 for i in drawing]
    fields.sampled_states[: len(drawing)] = [state_indexes[i] for i in drawing]
    return words


def _write_tokens(
    fields: MixedInputs[Words],
    start: int,
    sequence: ScheduledSequence,
    state_index: int,
    block_size: int,
) -> int:
    """Writes a sequence's tokens from row `start` on; returns the row after them."""
    end = start + len(sequence.token_ids)
    if sequence.token_ids[0] == PENDING_TOKEN:
        fields.input_ids[start] = -1 - state_index
    else:
        fields.input_ids[start:end] = sequence.token_ids
    positions = np.arange(sequence.num_computed_tokens, sequence.num_tokens)
    first = positions[0] // block_size
    blocks = np.array(sequence.block_table[first : positions[-1] // block_size + 1])
    fields.positions[start:end] = positions
    slots = blocks[positions // block_size - first] * block_size + positions % block_size
    fields.slot_mapping[start:end] = slots
    return end
