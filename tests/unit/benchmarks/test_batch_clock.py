from collections.abc import Callable

import pytest

from benchmarks.harness.batch_clock import BatchClock


class _Time:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock_of() -> Callable[[dict[float, list[int]], int], BatchClock]:
    """A clock that is told of tokens: by time, the sequences that each got one."""

    def make(steps: dict[float, list[int]], batch: int) -> BatchClock:
        time = _Time()
        clock = BatchClock(batch, time)
        for time.now, sequences in steps.items():
            for sequence in sequences:
                clock.add(sequence)
        return clock

    return make


Make = Callable[[dict[float, list[int]], int], BatchClock]


def test_all_sequences_start_together(clock_of: Make) -> None:
    timing = clock_of({2.0: [0, 1], 2.5: [0, 1], 3.0: [0, 1]}, 2).timing()

    assert timing.prefill_s == 2.0
    assert timing.decode_rate == pytest.approx(4.0)
    assert timing.total_s == 3.0


def test_decoding_beside_the_prefill_of_others_does_not_count(clock_of: Make) -> None:
    # Sequence 0 decodes slowly while 1 is prefilled, and ends one step before it.
    steps = {1.0: [0], 3.0: [0, 1], 3.5: [0, 1], 4.0: [0, 1], 4.5: [1]}

    timing = clock_of(steps, 2).timing()

    assert timing.prefill_s == 3.0
    assert timing.decode_rate == pytest.approx(4.0)


def test_tokens_of_a_step_may_come_in_any_order(clock_of: Make) -> None:
    late = clock_of({1.0: [0, 1], 2.0: [1, 0], 3.0: [0, 1]}, 2).timing()

    assert late.decode_rate == pytest.approx(2.0)


def test_a_prefill_alone_has_no_rate_of_decoding(clock_of: Make) -> None:
    timing = clock_of({0.5: [0]}, 1).timing()

    assert (timing.prefill_s, timing.decode_rate) == (0.5, 0.0)


def test_merged_deltas_count_as_their_tokens() -> None:
    time = _Time()
    clock = BatchClock(1, time)
    for time.now, tokens in ((1.0, 1), (1.5, 0), (2.0, 3), (3.0, 1)):
        clock.add(0, tokens)

    assert clock.timing().decode_rate == pytest.approx(2.0)
    assert clock.tokens_per_arrival == 2.0
