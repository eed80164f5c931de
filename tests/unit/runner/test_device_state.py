"""What is uploaded is all that the device needs to know of the sequences, and no more."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_service.core.outputs import PENDING_TOKEN, ScheduledSequence
from engine_service.draw_fields import DRAW_WORDS
from engine_service.runner.gpu.device_state import DeviceState
from engine_service.runner.gpu.drawing import Draw, pack_draws
from folovllm.sampling_params import SamplingParams

CPU = torch.device("cpu")
NUM_STATES, WIDTH, MAX_ROWS, SPARE_BLOCK, BLOCK_SIZE = 3, 8, 4, 77, 4


def make_state() -> DeviceState:
    return DeviceState(NUM_STATES, WIDTH, MAX_ROWS, SPARE_BLOCK, CPU)


@dataclass
class Decoding:
    """A sequence of tokens that are all known here, though not all are uploaded."""

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


def upload(state: DeviceState) -> int:
    """Does what the device does with changes, of which no two are of one word."""
    changes = state.drain_changes()
    if changes is None:
        return 0
    indexes, values = changes
    assert len(set(indexes.tolist())) == len(indexes)
    state.words[torch.from_numpy(indexes).long()] = torch.from_numpy(values)
    assert state.drain_changes() is None
    return len(indexes)


def check_state(state: DeviceState, index: int, sequence: Decoding) -> None:
    assert int(state.last_tokens[index]) == sequence.tokens[-1]
    assert int(state.lengths[index]) == len(sequence.tokens)
    found = state.block_tables[index, : len(sequence.block_table)].tolist()
    assert found == sequence.block_table
    words = pack_draws([Draw(sequence.scheduled(), sequence.seq_id + 1)])
    assert state.draw_params[:, index].tolist() == words[:, 0].tolist()


class Steps:
    """Decode steps of the host and of the device, which is played by the words of the state."""

    def __init__(self) -> None:
        self.state = make_state()
        self.last: set[int] = set()

    def run(self, sequences: list[Decoding]) -> int:
        """One step; returns how many words were uploaded before it."""
        state, ids = self.state, frozenset(each.seq_id for each in sequences)
        for each in sequences:
            each.grow()
        indexes = [
            state.assign(each.scheduled(each.seq_id in self.last), ids) for each in sequences
        ]
        state.set_rows(indexes, MAX_ROWS)
        num_uploaded = upload(state)
        assert len(set(indexes)) == len(indexes) and max(indexes, default=0) < NUM_STATES
        padding = [NUM_STATES] * (MAX_ROWS - len(indexes))
        assert state.rows.tolist() == [*indexes, *padding]
        for index, each in zip(indexes, sequences, strict=True):
            check_state(state, index, each)
            assert state.index_of(each.seq_id) == index
            each.tokens.append(1000 * each.seq_id + len(each.tokens))
            state.last_tokens[index] = each.tokens[-1]
            state.lengths[index] += 1
            state.advance(each.scheduled())
        self.last = set(ids)
        return num_uploaded


@pytest.fixture
def steps() -> Steps:
    return Steps()


def test_padding_has_a_state_of_its_own() -> None:
    state = make_state()
    assert state.block_tables[NUM_STATES].tolist() == [SPARE_BLOCK] * WIDTH
    assert int(state.lengths[NUM_STATES]) == 0
    assert not state.draw_params[:, NUM_STATES].any()


def test_an_unchanged_batch_needs_no_upload(steps: Steps) -> None:
    batch = [Decoding(1, [5, 6, 7]), Decoding(2, [8] * 9)]
    assert steps.run(batch) > 0
    # The next two tokens of the first, of the second four, fit their blocks, then comes one more.
    assert [steps.run(batch) for _ in range(3)] == [0, 1, 0]


def test_padding_rows_are_uploaded_once(steps: Steps) -> None:
    batch = [Decoding(number, [3]) for number in (1, 2)]
    steps.run(batch)
    assert steps.run(batch[:1]) == 1
    assert steps.run(batch[:1]) == 0


def test_the_least_recently_used_makes_room(steps: Steps) -> None:
    first, second, third, fourth = (Decoding(number, [9, 9]) for number in (1, 2, 3, 4))
    steps.run([first, second, third])
    steps.run([first])
    index = steps.state.index_of(2)
    steps.run([first, fourth])
    assert steps.state.index_of(4) == index
    with pytest.raises(KeyError):
        steps.state.index_of(2)
    steps.run([second, third])  # takes over the first's, though the fourth's is as new
    assert steps.state.index_of(4) == index


def test_none_of_the_step_itself_makes_room(steps: Steps) -> None:
    first, second, third, fourth = (Decoding(number, [9, 9]) for number in (1, 2, 3, 4))
    steps.run([first, second, third])
    # The first is the least recently used when the fourth comes before it.
    steps.run([fourth, first])
    assert {steps.state.index_of(seq_id) for seq_id in (1, 4, 3)} == {0, 1, 2}


def test_a_block_table_that_is_replaced_is_uploaded_anew(steps: Steps) -> None:
    """As that of a sequence which was preempted, whose blocks may be in another order then."""
    sequence = Decoding(1, [2] * 11)
    steps.run([sequence])
    sequence.block_table = sequence.block_table[::-1]
    assert steps.run([sequence]) == 3


def test_changes_are_indexes_and_words() -> None:
    state = make_state()
    assert state.drain_changes() is None
    state.set_rows([1], 2)
    changes = state.drain_changes()
    assert changes is not None and changes.dtype == np.int32
    start = len(state.words) - MAX_ROWS
    assert changes.tolist() == [[start, start + 1], [1, NUM_STATES]]


def test_views_are_of_the_tables_words() -> None:
    state = make_state()
    storage = state.words.untyped_storage().data_ptr()
    views = [state.last_tokens, state.lengths, state.block_tables, state.rows, state.draw_params]
    assert all(view.untyped_storage().data_ptr() == storage for view in views)
    position = state.draw_params[DRAW_WORDS.index("position")]
    assert position.data_ptr() == state.lengths.data_ptr()


# Which of five sequences are in a step, and which are preempted or known anew before it.
_STEPS = st.lists(
    st.tuples(
        st.lists(st.integers(0, 4), unique=True, max_size=NUM_STATES), st.sets(st.integers(0, 4))
    ),
    max_size=14,
)


@settings(deadline=None)
@given(_STEPS)
def test_any_steps_upload_what_is_needed(plan: list[tuple[list[int], set[int]]]) -> None:
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


def test_a_prompt_in_chunks_uploads_how_to_draw_with_its_first_draw() -> None:
    state, sequence = make_state(), Decoding(2, [4, 5, 6, 7, 8, 9])
    sequence.grow()
    for start, end in ((0, 4), (4, 6)):
        part = sequence.scheduled()
        part.token_ids, part.num_computed_tokens = sequence.tokens[start:end], start
        part.sample_indexes = (3,) if end == 6 else ()
        index = state.assign(part, frozenset([2]))
        upload(state)
        assert bool(state.draw_params[DRAW_WORDS.index("temperature"), index]) == (end == 6)
        assert int(state.lengths[index]) == end
    check_state(state, index, sequence)
