"""State on the device: what is set, what a step reads of it and what it leaves for the next."""

import numpy as np
import pytest
import torch
from torch import Tensor

from engine_service.kernels.gpu.state import sequence_states
from engine_service.runner.device_copy import Downloads, Uploads, to_device
from support.twins.gpu_twins import DEVICE, NAN

# What no kernel may follow: as an address, it is far from any tensor.
POISON = -(2**30)
NUM_STATES, BLOCK_SIZE = 5, 16


def ints(*numbers: int) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int32, device=DEVICE)


@pytest.mark.parametrize("num_changes", [1, 3, 256, 300])
def test_set_words(num_changes: int) -> None:
    generator = torch.Generator().manual_seed(num_changes)
    words = torch.arange(400, dtype=torch.int32)
    indexes = torch.randperm(400, generator=generator)[:num_changes]
    values = torch.randint(-(2**31), 2**31 - 1, (num_changes,), generator=generator).int()
    expected = words.clone()
    expected[indexes] = values
    # After the changes come others, which must not be made.
    storage = torch.cat([indexes.int(), values, ints(7, POISON).cpu()]).to(DEVICE)
    found = words.to(DEVICE)
    sequence_states.set_words(found, storage[: 2 * num_changes].view(2, num_changes))
    assert torch.equal(found.cpu(), expected)


@pytest.mark.parametrize("num_rows", [1, 3, 4])
def test_gather_inputs(num_rows: int) -> None:
    storage = ints(3, 0, NUM_STATES, 4, POISON, POISON)
    rows = storage[:num_rows]
    last_tokens, lengths = ints(10, POISON, POISON, 13, 14, 0), ints(1, -1, -1, 17, 48, 1)
    tables = torch.full((NUM_STATES + 1, 4), POISON, dtype=torch.int32, device=DEVICE)
    tables[0, :1], tables[3, :2], tables[4, :3] = ints(8), ints(9, 2), ints(1, 3, 6)
    tables[NUM_STATES] = 11
    inputs = torch.full((3, 6), POISON, dtype=torch.int32, device=DEVICE)
    slot_mapping = torch.full((6,), POISON, device=DEVICE)
    input_ids, positions, seq_lens = inputs[:, :num_rows]
    sequence_states.gather_inputs(
        rows=rows,
        last_tokens=last_tokens,
        lengths=lengths,
        block_tables=tables,
        block_size=BLOCK_SIZE,
        input_ids=input_ids,
        positions=positions,
        slot_mapping=slot_mapping[:num_rows],
        seq_lens=seq_lens,
    )
    expected = ([13, 10, 0, 14], [16, 0, 0, 47], [17, 1, 1, 48])
    for found, numbers in zip(inputs.tolist(), expected, strict=True):
        assert found == numbers[:num_rows] + [POISON] * (6 - num_rows)
    written = [2 * BLOCK_SIZE, 8 * BLOCK_SIZE, 11 * BLOCK_SIZE, 6 * BLOCK_SIZE + 15]
    assert slot_mapping.tolist() == written[:num_rows] + [POISON] * (6 - num_rows)


def test_advance_leaves_padding_as_it_is() -> None:
    last_tokens, lengths = ints(10, 11, 12, 13, 14, 15), ints(1, 2, 3, 4, 5, 1)
    rows = ints(3, NUM_STATES, 0, NUM_STATES, 1, 2)[:4]
    token_ids = ints(70, POISON, 71, POISON, POISON, POISON)[:4]
    sequence_states.advance(rows, token_ids, last_tokens, lengths, NUM_STATES)
    assert last_tokens.tolist() == [71, 11, 12, 70, 14, 15]
    assert lengths.tolist() == [2, 2, 3, 5, 5, 1]


def test_numbers_go_to_the_device_and_back() -> None:
    numbers = ints(4, -1, 2**31 - 1)
    on_device = to_device(numbers.cpu().numpy(), DEVICE)
    assert on_device.device.type == DEVICE.type and torch.equal(on_device, numbers)
    downloads = Downloads(4, DEVICE)
    download = downloads.start(on_device)
    on_device.fill_(9)  # as the next step does, before the numbers of this one are read
    assert download.wait() == [4, -1, 2**31 - 1]
    assert download.wait() == [4, -1, 2**31 - 1]
    assert downloads.start(on_device[:0]).wait() == []
    assert downloads.start(ints(*range(9))).wait() == list(range(9))  # more than there is room for
    assert torch.isnan(to_device(torch.tensor([NAN]).numpy(), DEVICE)).all()


def test_uploads_stay_until_the_fourth_after_them() -> None:
    uploads = Uploads(3, DEVICE)
    sent = [uploads.send(np.array([number] * 3, dtype=np.int32)) for number in range(4)]
    assert [each.tolist() for each in sent] == [[number] * 3 for number in range(4)]
    assert uploads.send(np.array([9], dtype=np.int32)).tolist() == [9]


def test_a_failed_draw_appends_a_valid_id() -> None:
    """Its sequence may be computed once more before the host knows."""
    last_tokens, lengths = ints(10, 11), ints(1, 2)
    sequence_states.advance(ints(0), ints(-1), last_tokens, lengths, 2)
    assert last_tokens.tolist() == [0, 11] and lengths.tolist() == [2, 2]
