"""Products with packed weights equal plain torch's, and a row is computed on its own."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from support.builders.cpu_kernels import BFLOAT16, PackedLinear, context
from support.twins.kernel_twins import linear

FORMATS = ("bf16", "int8", "int4")
COUNTS = (*range(1, 14), 24, 25, 40, 130)

pytestmark = pytest.mark.parametrize("weight_format", FORMATS)


def random(*shape: int, seed: int = 0) -> Tensor:
    """Normal values, each row of another magnitude."""
    generator = torch.Generator().manual_seed(1000 * seed + sum(shape))
    values = torch.randn(*shape, generator=generator)
    magnitudes = torch.randn(*shape[:-1], 1, generator=generator).exp()
    return (values * magnitudes).to(BFLOAT16)


@pytest.mark.parametrize("outputs", [16, 31, 100, 320])
@pytest.mark.parametrize("inputs", [32, 96, 1024])
def test_products(weight_format: str, outputs: int, inputs: int) -> None:
    weight = random(outputs, inputs, seed=1)
    packed = PackedLinear(weight, weight_format=weight_format)
    rows = random(max(COUNTS), inputs, seed=2)
    expected = packed(rows)
    linear(rows, weight, weight_format).check(expected)
    for count in COUNTS:
        assert torch.equal(packed(rows[:count]), expected[:count])


@pytest.mark.parametrize("with_bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("with_norm", [False, True], ids=["no norm", "norm"])
@pytest.mark.parametrize("residual", ["no", "apart", "in place"])
def test_bias_norm_and_residual(
    weight_format: str, with_bias: bool, with_norm: bool, residual: str
) -> None:
    weight, rows = random(70, 96, seed=3), random(29, 96, seed=4)
    bias = random(1, 70, seed=5)[0] if with_bias else None
    norm = (1 + random(1, 96, seed=6)[0]) if with_norm else None
    added = random(29, 70, seed=7) if residual != "no" else None
    packed = PackedLinear(
        weight, weight_format=weight_format, biases=() if bias is None else (bias,)
    )
    expected = linear(rows, weight, weight_format, bias, norm)
    if added is not None:
        expected = expected + added
    found = packed(rows, norm=norm, residual=added, in_place=residual == "in place")
    expected.check(found)


def test_parts_follow_each_other(weight_format: str) -> None:
    parts = [random(size, 64, seed=size) for size in (48, 5, 32)]
    biases = tuple(random(1, len(part), seed=9)[0] for part in parts)
    rows = random(7, 64, seed=10)
    packed = PackedLinear(*parts, weight_format=weight_format, biases=biases)
    linear(rows, torch.cat(parts), weight_format, torch.cat(biases)).check(packed(rows))


@pytest.mark.parametrize("size", [5, 16, 40, 96])
@pytest.mark.parametrize("with_bias", [False, True], ids=["no bias", "bias"])
def test_gates_and_their_factors(weight_format: str, size: int, with_bias: bool) -> None:
    gates, factors = (random(size, 64, seed=seed) / 8 for seed in (11, 12))
    biases = tuple(random(1, size, seed=seed)[0] for seed in (13, 14)) if with_bias else ()
    norm = 1 + random(1, 64, seed=16)[0]
    packed = PackedLinear(gates, factors, weight_format=weight_format, biases=biases, gated=True)
    rows = random(17, 64, seed=15)
    for wanted in (None, norm):
        gate, factor = (
            linear(rows, part, weight_format, bias, wanted)
            for part, bias in zip((gates, factors), biases or (None, None), strict=True)
        )
        gate.gate(factor).check(packed(rows, norm=wanted))


@pytest.mark.parametrize("gate", [-1e30, -500.0, -90.0, -1.0, 0.0, 1.0, 90.0, 1e30])
def test_gates_of_any_size(weight_format: str, gate: float) -> None:
    # Each output's gate is an input, and its factor is 1.
    gates, factors = torch.eye(32).to(BFLOAT16), torch.zeros(32, 32, dtype=BFLOAT16)
    biases = (torch.zeros(32, dtype=BFLOAT16), torch.ones(32, dtype=BFLOAT16))
    packed = PackedLinear(gates, factors, weight_format=weight_format, biases=biases, gated=True)
    rows = torch.full((1, 32), gate, dtype=BFLOAT16)
    factor = linear(rows, factors, weight_format, biases[1])
    linear(rows, gates, weight_format).gate(factor).check(packed(rows))


def test_rows_with_a_stride_read_nothing_between_them(weight_format: str) -> None:
    weight = random(48, 64, seed=17)
    packed = PackedLinear(weight, weight_format=weight_format)
    rows = random(27, 64, seed=18)
    apart = torch.full((27, 80), float("nan"), dtype=BFLOAT16)
    apart[:, :64] = rows
    assert torch.equal(packed(apart[:, :64]), packed(rows))


def test_zeros(weight_format: str) -> None:
    weight, rows = random(48, 64, seed=19), random(14, 64, seed=20)
    weight[3:40] = 0
    weight[47, :32] = 0  # a whole group of 4-bit weights
    rows[2:13] = 0
    packed = PackedLinear(weight, weight_format=weight_format)
    norm = torch.ones(64, dtype=BFLOAT16)
    for wanted in (None, norm):
        found = packed(rows, norm=wanted)
        linear(rows, weight, weight_format, norm=wanted).check(found)
        assert not found[2:13].any() and not found[:, 3:40].any()


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("with_norm", [False, True], ids=["no norm", "norm"])
def test_a_row_that_is_not_finite_stays_so_and_alone(
    weight_format: str, value: str, with_norm: bool
) -> None:
    packed = PackedLinear(random(48, 96, seed=21), weight_format=weight_format)
    norm = torch.ones(96, dtype=BFLOAT16) if with_norm else None
    for count in (1, 12, 26):
        rows = random(count, 96, seed=22)
        expected = packed(rows, norm=norm)
        broken = count // 2
        rows[broken, 40] = float(value)
        found = packed(rows, norm=norm)
        others = torch.arange(count) != broken
        assert torch.equal(found[others], expected[others])
        assert not found[broken].isfinite().any()


def test_threads_give_equal_bits(weight_format: str) -> None:
    weight = random(700, 96, seed=23)
    packed = [PackedLinear(weight, weight_format=weight_format, num_threads=n) for n in (1, 2, 3)]
    whole = packed[0].packed.packed["tested"]
    assert all(torch.equal(each.packed.packed["tested"], whole) for each in packed)
    for count in (1, 12, 40, 130):
        rows = random(count, 96, seed=24)
        alone = packed[0](rows)
        for threads in (2, 3):
            assert torch.equal(packed[0](rows, on=context(threads)), alone)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_rows_bits_do_not_depend_on_its_company(weight_format: str, data: st.DataObject) -> None:
    count, index = data.draw(st.integers(1, 40)), data.draw(st.integers(0, 39))
    index %= count
    inputs = 32 * data.draw(st.integers(1, 4))
    outputs = data.draw(st.integers(1, 70))
    seed = data.draw(st.integers(0, 99))
    packed = PackedLinear(random(outputs, inputs, seed=seed), weight_format=weight_format)
    rows = random(count, inputs, seed=seed + 100)
    norm = random(1, inputs, seed=seed + 200)[0] if data.draw(st.booleans()) else None
    residual = random(count, outputs, seed=seed) if data.draw(st.booleans()) else None
    alone = packed(
        rows[index : index + 1],
        norm=norm,
        residual=None if residual is None else residual[index : index + 1].clone(),
    )
    beside = packed(rows, norm=norm, residual=residual, on=context(data.draw(st.integers(1, 3))))
    assert torch.equal(beside[index], alone[0])


def test_rows_are_picked_by_their_indexes(weight_format: str) -> None:
    linear = PackedLinear(torch.randn(40, 64).to(BFLOAT16), weight_format=weight_format)
    rows = torch.randn(9, 64).to(BFLOAT16)
    indexes = torch.tensor([8, 0, 3, 3, 5, 8, 1])
    assert torch.equal(linear(rows, indexes=indexes), linear(rows[indexes]))
