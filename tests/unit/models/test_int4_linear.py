"""4-bit weights in plain torch: rounding, torch's own operator, and what has to be refused."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from engine_service.layers.linear.int4_linear import GROUP, Int4Linear, quantize_groups
from engine_service.layers.linear.packing import choose_packing, head_quantization
from engine_service.models.decoder_config import DecoderConfig
from engine_service.models.loader import load_decoder
from engine_service.models.model_options import ModelOptions
from folovllm.errors import ConfigError
from support.builders.tiny_models import make_checkpoint

CPU = torch.device("cpu")


def dequantized(weight: Tensor) -> Tensor:
    numbers, scales = quantize_groups(weight)
    groups = (numbers - 8).view(*scales.shape, GROUP) * scales.float()[..., None]
    return groups.view(weight.shape)


@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([1e-30, 1e-3, 1.0, 1e4]))
@settings(deadline=None, max_examples=50)
def test_an_error_is_at_most_half_a_step_or_one_where_the_range_ends(
    seed: int, scale: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = (torch.randn(5, 2 * GROUP, generator=generator) * scale).bfloat16()
    numbers, scales = quantize_groups(weight)
    assert numbers.min() >= 0 and numbers.max() <= 15
    steps = scales.float().abs().repeat_interleave(GROUP, dim=1)
    errors = (dequantized(weight) - weight.float()).abs() / steps
    # Scales are rounded to 8 bits, and only the sign of the largest value has eight steps.
    assert (errors <= torch.where(numbers == 15, 1.04, 0.52)).all()


def test_the_largest_magnitude_is_kept_with_its_sign() -> None:
    weight = torch.zeros(2, GROUP)
    weight[0, 3], weight[0, 9], weight[1, 5] = 4.0, -2.0, -4.0
    numbers, scales = quantize_groups(weight)
    assert scales[:, 0].tolist() == [-0.5, 0.5]
    assert [int(numbers[place]) for place in ((0, 3), (0, 9), (1, 5))] == [0, 12, 0]
    torch.testing.assert_close(dequantized(weight), weight)


def test_a_group_of_zeros_stays_one() -> None:
    assert dequantized(torch.zeros(3, 2 * GROUP)).eq(0).all()


@pytest.mark.parametrize("shape", [(16, 32), (100, 96), (64, 1024)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_product_is_that_of_the_rounded_weight(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    weight, bias = torch.randn(shape).to(dtype), torch.randn(shape[0]).to(dtype)
    rows = torch.randn(7, shape[1]).to(dtype)
    expected = functional.linear(rows.float(), dequantized(weight), bias.float())
    found = Int4Linear(weight, bias)(rows)
    assert found.dtype is dtype and found.shape == (7, shape[0])
    error = (found.float() - expected).norm() / expected.norm()
    assert float(error) < (1e-5 if dtype is torch.float32 else 1e-2)


def test_inputs_that_are_no_whole_groups_are_refused() -> None:
    with pytest.raises(ConfigError, match="multiple of 32 inputs, this model has one of 48"):
        Int4Linear(torch.ones(4, 48), None)


def test_int4_leaves_the_head_in_8_bits() -> None:
    assert choose_packing(torch.float32, CPU, "int4") is Int4Linear
    assert [head_quantization(name) for name in ("none", "int8", "int4")] == [
        "none",
        "int8",
        "int8",
    ]


def test_a_decoders_head_has_the_error_of_8_bits(tmp_path: Path) -> None:
    folder = make_checkpoint("qwen3_tied", tmp_path)
    config = DecoderConfig.from_folder(folder)
    model = load_decoder(folder, config, ModelOptions(torch.float32, CPU, quantization="int4"))
    plain = load_decoder(folder, config, ModelOptions(torch.float32, CPU))
    hidden = torch.randn(20, config.hidden_size)
    found, expected = model.compute_logits(hidden), plain.compute_logits(hidden)
    assert 0 < float((found - expected).norm() / expected.norm()) < 0.02
