"""Draws on a GPU are the sampler's, whatever filters are asked for and whatever is in the batch."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from engine_service import seeding
from engine_service.draw_fields import DRAW_WORDS
from engine_service.kernels.gpu.sampling.sampler import (
    Tiling,
    draw,
    make_workspace,
    random_number,
)
from folovllm.sampling_params import SamplingParams
from support.twins.exact_sampling import exact_distribution, p_value
from support.twins.gpu_draws import (
    SMALL,
    Drawing,
    check,
    draw_params,
    drawing,
    drawn,
    poisoned_workspace,
)
from support.twins.gpu_twins import DEVICE, NAN

# Not a multiple of any tile's size.
VOCAB = 499
INF = float("inf")
# numpy's, under the interpreter.
_OVERFLOWS = pytest.mark.filterwarnings("ignore::RuntimeWarning")
DTYPES = [torch.float32, torch.bfloat16]
FILTERS = [
    drawing(),
    drawing(temperature=0.0),
    drawing(temperature=1e-30),
    drawing(temperature=100.0),
    drawing(top_k=1),
    drawing(top_k=20, top_p=0.95, temperature=0.6),
    # More than registers hold: as many as there are blocks with one each, and more.
    drawing(top_k=60),
    drawing(top_k=300, temperature=2.0),
    drawing(top_k=VOCAB - 1, top_p=0.3),
    drawing(top_k=VOCAB + 1, min_p=0.5),
    drawing(top_p=0.5),
    drawing(top_p=1e-10),
    drawing(top_p=0.9, temperature=3.0),
    drawing(top_p=0.9999, temperature=50.0),
    drawing(min_p=1.0),
    drawing(min_p=1e-4, temperature=2.0),
    drawing(top_p=0.8, min_p=0.001, temperature=3.0),
    drawing(top_k=300, top_p=0.9, min_p=0.01, temperature=5.0),
]


def random_logits(num_rows: int, dtype: torch.dtype, vocab_size: int = VOCAB) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return (torch.randn(num_rows, vocab_size, generator=generator) * 3).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_draws_are_the_samplers(dtype: torch.dtype) -> None:
    drawings = [replace(each, position=i, index=i % 3) for i, each in enumerate(FILTERS)]
    check(random_logits(len(drawings), dtype), drawings)


def test_float16_has_keys_of_its_own() -> None:
    drawings = [
        drawing(temperature=0.0),
        drawing(),
        drawing(top_k=60, top_p=0.9),
        drawing(top_p=0.9, min_p=1e-3),
    ]
    check(random_logits(len(drawings), torch.float16), drawings)


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_values_stay_or_go_together(dtype: torch.dtype) -> None:
    filters = FILTERS[DTYPES.index(dtype) :: 2]
    logits = random_logits(len(filters), dtype).div(2).round()
    # Both zeros are equal, too.
    logits[:, ::3] *= -1
    drawings = [replace(each, position=i) for i, each in enumerate(filters)]
    check(logits, drawings)


def test_a_row_of_one_value_is_drawn_from_as_a_whole() -> None:
    filters = (
        drawing(),
        drawing(top_k=3),
        drawing(top_p=0.1),
        drawing(min_p=1.0),
        drawing(temperature=0.0),
    )
    drawings = [replace(each, position=i) for i, each in enumerate(filters)]
    tokens = check(torch.full((len(drawings), VOCAB), -2.5, dtype=torch.bfloat16), drawings)
    assert tokens[-1] == 0
    assert len(set(tokens)) == len(tokens)


def test_forbidden_tokens_are_never_drawn() -> None:
    dtype = torch.bfloat16
    drawings = [replace(each, position=i) for i, each in enumerate(FILTERS)]
    logits = torch.full((len(drawings), VOCAB), -INF, dtype=dtype)
    # None in the first and the last chunks.
    allowed = torch.arange(140, 370, 13)
    logits[:, allowed] = random_logits(len(drawings), dtype)[:, allowed]
    assert set(check(logits, drawings)) <= set(allowed.tolist())


def test_a_single_allowed_token_is_drawn() -> None:
    logits = torch.full((len(FILTERS), VOCAB), -INF)
    logits[:, VOCAB - 1] = -1e38
    assert drawn(logits[::3], FILTERS[::3]) == [VOCAB - 1] * len(FILTERS[::3])


@_OVERFLOWS
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("each", [drawing(temperature=0.0), drawing(), drawing(top_k=2, top_p=0.9)])
def test_rows_that_are_no_numbers_give_no_token(each: Drawing, dtype: torch.dtype) -> None:
    logits = random_logits(6, dtype)
    logits[0, 5] = NAN
    logits[1, VOCAB - 1] = -NAN
    logits[2, 300] = INF
    logits[3] = -INF
    logits[4] = NAN
    tokens = drawn(logits, [each] * 6)
    assert tokens[:5] == [-1] * 5
    assert tokens[5] == check(logits[5:], [each])[0]


@_OVERFLOWS
def test_extremes_do_not_overflow() -> None:
    logits = torch.zeros(4, VOCAB)
    logits[:, 0], logits[:, 9] = -3e38, 3e38
    drawings = [drawing(), drawing(temperature=1e-30), drawing(top_k=3), drawing(temperature=0.0)]
    assert check(logits, drawings) == [9] * 4


def test_a_row_alone_gives_what_it_gives_in_a_batch() -> None:
    logits = random_logits(len(FILTERS), torch.bfloat16)
    drawings = [replace(each, position=50 + i) for i, each in enumerate(FILTERS)]
    together = drawn(logits, drawings)
    for row in range(1, len(drawings), 6):
        assert drawn(logits[row : row + 1], drawings[row : row + 1]) == together[row : row + 1]


def test_a_vocabulary_of_one_chunk() -> None:
    drawings = [replace(each, position=i) for i, each in enumerate(FILTERS[::2])]
    check(random_logits(len(drawings), torch.float32, 50), drawings)


def test_the_default_tiling() -> None:
    drawings = [
        drawing(),
        drawing(temperature=0.0),
        drawing(top_k=20, top_p=0.95),
        drawing(top_p=0.9),
    ]
    logits = random_logits(len(drawings), torch.bfloat16, 5000)
    check(logits, [replace(each, position=i) for i, each in enumerate(drawings)], Tiling())


@pytest.mark.parametrize(
    "params, draws",
    [(SamplingParams(), 60), (SamplingParams(temperature=0.8, top_k=12, top_p=0.8), 40)],
)
def test_frequencies_are_the_distributions(params: SamplingParams, draws: int) -> None:
    row = torch.linspace(-3.0, 3.0, 24)[torch.arange(24) * 7 % 24].bfloat16()
    drawings = [Drawing(params, position=i) for i in range(draws)]
    tokens = np.array(drawn(row.repeat(draws, 1), drawings))
    expected = exact_distribution(row, params)
    # There are too few draws for the rare tokens to be counted one by one.
    rare = (expected > 0) & (expected * draws < 5)
    tokens[rare[tokens]] = rare.argmax()
    mass = expected[rare].sum()
    expected[rare] = 0.0
    expected[rare.argmax()] += mass
    assert p_value(tokens, expected) > 1e-4


def test_parameters_may_be_views_that_change() -> None:
    """The same addresses are read anew by each draw, as in a graph that is replayed."""
    logits = random_logits(1, torch.float32)
    params = draw_params([drawing(), drawing(temperature=0.0)])
    workspace = poisoned_workspace(1, VOCAB)
    rows = torch.ones(1, dtype=torch.int32, device=DEVICE)
    token_ids = torch.zeros(1, dtype=torch.int32, device=DEVICE)
    draw(logits.to(DEVICE), rows, params, workspace, token_ids)
    assert token_ids.tolist() == check(logits, [drawing()])
    params[DRAW_WORDS.index("position"), 1] = 3
    draw(logits.to(DEVICE), rows, params, workspace, token_ids)
    assert token_ids.tolist() == check(logits, [drawing(position=3)])
    rows.fill_(3)
    draw(logits.to(DEVICE), rows, params, workspace, token_ids)
    assert token_ids.tolist() == [int(logits.argmax())]


def test_what_does_not_fit_is_refused() -> None:
    workspace = make_workspace(2, VOCAB, DEVICE, SMALL)
    params = draw_params([drawing()])
    ids = torch.zeros(3, dtype=torch.int32, device=DEVICE)
    for shape in ((3, VOCAB), (2, VOCAB + 1)):
        with pytest.raises(ValueError, match="does not fit"):
            draw(torch.zeros(shape, device=DEVICE), ids, params, workspace, ids)
    unaligned = torch.zeros(3 * VOCAB, device=DEVICE)[1 : 1 + VOCAB].view(1, VOCAB)
    for logits in (unaligned, torch.zeros(VOCAB, 2, device=DEVICE).t()):
        with pytest.raises(ValueError, match="16 bytes"):
            draw(logits, ids, params, workspace, ids)
    draw(torch.zeros(0, VOCAB, device=DEVICE), ids, params, workspace, ids)


@triton.jit
def _numbers(params, stride, numbers):  # type: ignore[no-untyped-def]
    i = tl.program_id(0)
    tl.store(numbers + i, random_number(params + i, stride))


def test_random_numbers_are_the_seedings_to_the_last_bit() -> None:
    words = [
        (seed, index, position)
        for seed in (0, 1, 2**63 - 1, 2**63, 2**64 - 1, 0x123456789ABCDEF0)
        for index in (0, 1, 127)
        for position in (0, 1, 40959, 2**31 - 1)
    ]
    drawings = [drawing(seed=s, index=i, position=p) for s, i, p in words]
    params = draw_params(drawings)[:, 1::2].contiguous()
    numbers = torch.full((len(words),), NAN, dtype=torch.float64, device=DEVICE)
    _numbers[(len(words),)](params, params.stride(0), numbers)
    assert numbers.tolist() == [seeding.uniform(*word) for word in words]
