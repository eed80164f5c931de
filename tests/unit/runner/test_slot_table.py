"""What the table tells the device is all that the device needs to know of the sequences."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine_service.core.outputs import PENDING_TOKEN, ScheduledSequence
from engine_service.runner.gpu.slot_table import SlotTable
from folovllm.sampling_params import SamplingParams

CPU = torch.device("cpu")
NUM_SLOTS, WIDTH, MAX_ROWS, SPARE_BLOCK, BLOCK_SIZE = 3, 8, 4, 77, 4


def make_table() -> SlotTable:
    return SlotTable(NUM_SLOTS, WIDTH, MAX_ROWS, SPARE_BLOCK, CPU)


@dataclass
class Decoding:
    """A sequence of tokens that all are known here, though the table may not be told."""

    seq_id: int
    tokens: list[int]
    block_table: list[int] = field(default_factory=list)

    @property
    def params(self) -> SamplingParams:
        return SamplingParams(
            temperature=0.25 * self.seq_id, top_k=self.seq_id, top_p=0.5, min_p=0.125
        )

    @property
    def seed(self) -> int:
        return 2**64 - 1 - self.seq_id * 2**33

    def grow(self) -> None:
        """Gives it the blocks that its tokens need."""
        while len(self.block_table) * BLOCK_SIZE < len(self.tokens):
            self.block_table.append(100 * self.seq_id + len(self.tokens))

    def scheduled(self, pending: bool = False) -> ScheduledSequence:
        return ScheduledSequence(
            self.seq_id,
            (PENDING_TOKEN if pending else self.tokens[-1],),
            len(self.tokens) - 1,
            self.block_table,
            self.params,
            self.seed,
            sample_indexes=(self.seq_id + 1,),
        )


def tell(table: SlotTable) -> int:
    """Does what the device does with changes, of which no two are for one place."""
    changes = table.take_changes()
    if changes is None:
        return 0
    places, values = changes
    assert len(set(places.tolist())) == len(places)
    table.words[torch.from_numpy(places).long()] = torch.from_numpy(values)
    assert table.take_changes() is None
    return len(places)


def check_slot(table: SlotTable, slot: int, sequence: Decoding) -> None:
    assert int(table.last_tokens[slot]) == sequence.tokens[-1]
    assert int(table.lengths[slot]) == len(sequence.tokens)
    found = table.block_tables[slot, : len(sequence.block_table)].tolist()
    assert found == sequence.block_table
    params, wanted = table.draw_params, sequence.params
    assert int(params.seed[slot]) % 2**64 == sequence.seed
    assert int(params.index[slot]) == sequence.seq_id + 1
    assert int(params.position[slot]) == len(sequence.tokens)
    assert int(params.top_k[slot]) == wanted.top_k
    floats = [float(each[slot]) for each in (params.temperature, params.top_p, params.min_p)]
    assert floats == [wanted.temperature, wanted.top_p, wanted.min_p]


class Steps:
    """Decode steps of a table and of the device, which is the words of the table."""

    def __init__(self) -> None:
        self.table = make_table()
        self.last: set[int] = set()

    def run(self, sequences: list[Decoding]) -> int:
        """One step; returns how many words were told before it."""
        table, ids = self.table, frozenset(each.seq_id for each in sequences)
        for each in sequences:
            each.grow()
        slots = [table.place(each.scheduled(each.seq_id in self.last), ids) for each in sequences]
        table.set_rows(slots, MAX_ROWS)
        told = tell(table)
        assert len(set(slots)) == len(slots) and max(slots, default=0) < NUM_SLOTS
        padding = [NUM_SLOTS] * (MAX_ROWS - len(slots))
        assert table.rows.tolist() == [*slots, *padding]
        for slot, each in zip(slots, sequences, strict=True):
            check_slot(table, slot, each)
            assert table.slot_of(each.seq_id) == slot
            each.tokens.append(1000 * each.seq_id + len(each.tokens))
            table.last_tokens[slot] = each.tokens[-1]
            table.lengths[slot] += 1
            table.advance(each.scheduled())
        self.last = set(ids)
        return told


@pytest.fixture
def steps() -> Steps:
    return Steps()


def test_padding_has_a_slot_that_is_no_ones() -> None:
    table = make_table()
    assert table.block_tables[NUM_SLOTS].tolist() == [SPARE_BLOCK] * WIDTH
    assert int(table.lengths[NUM_SLOTS]) == 0
    assert float(table.draw_params.temperature[NUM_SLOTS]) == 0.0


def test_an_unchanged_batch_needs_to_be_told_nothing(steps: Steps) -> None:
    batch = [Decoding(1, [5, 6, 7]), Decoding(2, [8] * 9)]
    assert steps.run(batch) > 0
    # The next two tokens of the first, of the second four, fit their blocks, then one more is told.
    assert [steps.run(batch) for _ in range(3)] == [0, 1, 0]


def test_padding_rows_are_told_once(steps: Steps) -> None:
    batch = [Decoding(number, [3]) for number in (1, 2)]
    steps.run(batch)
    assert steps.run(batch[:1]) == 1
    assert steps.run(batch[:1]) == 0


def test_the_one_longest_unused_makes_room(steps: Steps) -> None:
    first, second, third, fourth = (Decoding(number, [9, 9]) for number in (1, 2, 3, 4))
    steps.run([first, second, third])
    steps.run([first])
    place = steps.table.slot_of(2)
    steps.run([first, fourth])
    assert steps.table.slot_of(4) == place
    with pytest.raises(KeyError):
        steps.table.slot_of(2)
    steps.run([second, third])  # takes the first's, though the fourth's is as new
    assert steps.table.slot_of(4) == place


def test_none_of_the_steps_own_makes_room(steps: Steps) -> None:
    first, second, third, fourth = (Decoding(number, [9, 9]) for number in (1, 2, 3, 4))
    steps.run([first, second, third])
    # The first is the longest unused when the fourth comes before it.
    steps.run([fourth, first])
    assert {steps.table.slot_of(seq_id) for seq_id in (1, 4, 3)} == {0, 1, 2}


def test_a_table_that_is_replaced_is_told_anew(steps: Steps) -> None:
    """As that of a sequence which was preempted, whose blocks may be in another order then."""
    sequence = Decoding(1, [2] * 11)
    steps.run([sequence])
    sequence.block_table = sequence.block_table[::-1]
    assert steps.run([sequence]) == 3


def test_changes_come_as_places_and_words() -> None:
    table = make_table()
    assert table.take_changes() is None
    table.set_rows([1], 2)
    changes = table.take_changes()
    assert changes is not None and changes.dtype == np.int32
    start = len(table.words) - MAX_ROWS
    assert changes.tolist() == [[start, start + 1], [1, NUM_SLOTS]]


def test_views_are_of_the_tables_words() -> None:
    table = make_table()
    storage = table.words.untyped_storage().data_ptr()
    params = table.draw_params
    views: list[Tensor] = [table.last_tokens, table.lengths, table.block_tables, table.rows]
    views += [params.seed, params.index, params.temperature, params.top_p, params.min_p]
    assert all(view.untyped_storage().data_ptr() == storage for view in views)
    assert params.position.data_ptr() == table.lengths.data_ptr()


# Which of five sequences are in a step, and which are preempted or known anew before it.
_STEPS = st.lists(
    st.tuples(
        st.lists(st.integers(0, 4), unique=True, max_size=NUM_SLOTS), st.sets(st.integers(0, 4))
    ),
    max_size=14,
)


@settings(deadline=None)
@given(_STEPS)
def test_any_steps_are_told_rightly(plan: list[tuple[list[int], set[int]]]) -> None:
    steps = Steps()
    sequences = [Decoding(number, [number] * (1 + 2 * number)) for number in range(5)]
    for chosen, replaced in plan:
        for number in replaced:
            sequence = sequences[number]
            sequence.block_table = [block + 1 for block in sequence.block_table]
            # It has drawn more tokens elsewhere, as where a step draws several.
            sequence.tokens.append(500 + number)
        steps.last -= replaced
        fitting = [sequences[i] for i in chosen if len(sequences[i].tokens) < WIDTH * BLOCK_SIZE]
        steps.run(fitting)


def test_a_prompt_in_chunks_tells_how_to_draw_with_its_first_draw() -> None:
    table, sequence = make_table(), Decoding(2, [4, 5, 6, 7, 8, 9])
    sequence.grow()
    for start, end in ((0, 4), (4, 6)):
        part = sequence.scheduled()
        part.token_ids, part.num_computed_tokens = sequence.tokens[start:end], start
        part.sample_indexes = (3,) if end == 6 else ()
        slot = table.place(part, frozenset([2]))
        tell(table)
        assert (float(table.draw_params.temperature[slot]) > 0) == (end == 6)
        assert int(table.lengths[slot]) == end
    check_slot(table, slot, sequence)
