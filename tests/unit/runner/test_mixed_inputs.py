"""The words of a step of several tokens of some sequences, and the sizes of such steps."""

import numpy as np
import pytest
import torch

from engine_service.core.outputs import PENDING_TOKEN, ScheduledSequence
from engine_service.runner.gpu.mixed_graphs import max_extending, mixed_sizes
from engine_service.runner.gpu.mixed_inputs import InputSizes, device_inputs, written_inputs
from folovllm.sampling_params import SamplingParams

BLOCK_SIZE, SPARE_BLOCK, SPARE_STATE = 16, 50, 9
SIZES = InputSizes(num_tokens=32, max_num_seqs=4, num_extending=3)


def part(
    token_ids: list[int], num_computed: int, block_table: list[int], draws: bool = True
) -> ScheduledSequence:
    indexes = (0,) if draws else ()
    return ScheduledSequence(
        0, token_ids, num_computed, block_table, SamplingParams(), 0, sample_indexes=indexes
    )


def test_sequences_of_one_token_come_first() -> None:
    scheduled = [
        part([5, 6, 7], 15, [3, 8]),
        part([PENDING_TOKEN], 33, [1, 2, 4]),
        part(list(range(10, 18)), 0, [7], draws=False),
        part([9], 0, [6]),
    ]
    words = written_inputs(scheduled, [2, 0, 3, 1], SIZES, BLOCK_SIZE, SPARE_BLOCK, SPARE_STATE)
    # The words of larger sizes come after those of this one.
    found = device_inputs(torch.cat([torch.from_numpy(words), torch.tensor([-1])]), SIZES)
    spare = SPARE_BLOCK * BLOCK_SIZE
    assert found.input_ids[:13].tolist() == [-1, 9, 5, 6, 7, *range(10, 18)]
    assert found.positions[:13].tolist() == [33, 0, 15, 16, 17, *range(8)]
    slots = [65, 96, 3 * 16 + 15, 8 * 16, 8 * 16 + 1, *range(112, 120)]
    assert found.slot_mapping.tolist() == slots + [spare] * 19
    assert found.decode_lens.tolist() == [34, 1, 0, 0]
    assert found.decode_states[:2].tolist() == [0, 1]
    assert found.decode_starts.tolist() == [0, 1, 2, 2, 2]
    assert found.extend_lens.tolist() == [18, 8, 0]
    assert found.extend_states[:2].tolist() == [2, 3]
    assert found.extend_starts.tolist() == [2, 5, 13, 13]
    assert found.sampled_rows.tolist() == [4, 0, 1, 0]
    assert found.sampled_states.tolist() == [2, 0, 1, SPARE_STATE]


def test_a_step_of_nothing_is_padding_alone() -> None:
    words = written_inputs((), (), SIZES, BLOCK_SIZE, SPARE_BLOCK, SPARE_STATE)
    assert words.dtype == np.int32 and len(words) == sum(SIZES.words())
    found = device_inputs(torch.from_numpy(words), SIZES)
    assert set(found.sampled_states.tolist()) == {SPARE_STATE}
    assert set(found.slot_mapping.tolist()) == {SPARE_BLOCK * BLOCK_SIZE}
    for lens in (found.decode_lens, found.extend_lens, found.decode_starts, found.extend_starts):
        assert not lens.any()


@pytest.mark.parametrize("max_tokens", [1, 16, 48, 2048, 5000, 16384])
def test_sizes_grow_up_to_max_num_batched_tokens(max_tokens: int) -> None:
    sizes = mixed_sizes(max_tokens)
    assert sizes == sorted(set(sizes)) and sizes[-1] == max_tokens
    extending = [max_extending(size) for size in sizes]
    assert extending == sorted(extending) and extending[0] >= 8
