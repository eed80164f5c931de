"""Projections in 8 bits stay within the error that their rounding explains."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from engine_service.config import EngineConfig, ModelConfig, parse_args
from engine_service.engine.factory import build_engine
from engine_service.layers.linear.int8_linear import (
    Int8Linear,
    Int8WeightLinear,
    quantize_rows,
    quantize_weight,
)
from engine_service.layers.linear.packing import choose_packing
from engine_service.models.decoder_config import DecoderConfig
from engine_service.models.loader import load_decoder
from engine_service.models.model_options import ModelOptions
from folovllm.errors import ConfigError
from support.builders.tiny_models import make_checkpoint

CPU = torch.device("cpu")
Form = type[Int8Linear] | type[Int8WeightLinear]
FORMS: list[Form] = [Int8WeightLinear]
if choose_packing(torch.float32, CPU, "int8") is Int8Linear:
    FORMS.append(Int8Linear)


EPS = torch.finfo(torch.float32).eps


def product(quantized: tuple[Tensor, Tensor]) -> Tensor:
    """What int8 values and their scales stand for, exactly."""
    values, scales = quantized
    return values.double() * scales.double()


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected).norm() / expected.norm())


@pytest.mark.parametrize("columns", [1, 7, 1024])
def test_each_value_is_within_half_a_step_and_the_largest_is_exact(columns: int) -> None:
    values = torch.randn(9, columns) * torch.logspace(-30, 30, 9)[:, None]
    quantized, scales = quantize_rows(values)
    error = (quantized * scales - values).abs()
    # The quotient is rounded once before it is rounded to a whole number.
    assert bool((error <= scales * (0.5 + 127 * EPS)).all())
    assert quantized.abs().amax(-1).tolist() == [127] * 9


def test_rows_of_zeros_and_of_what_is_no_number() -> None:
    values = torch.zeros(3, 5)
    values[1, 2], values[2, 0] = float("nan"), float("inf")
    quantized, scales = quantize_rows(values)
    assert not quantized[0].any() and bool(scales[0].isfinite())
    assert not scales[1:].isfinite().any()


def test_a_weight_is_quantized_alike_in_pieces() -> None:
    weight = torch.randn(1100, 6).bfloat16()
    for whole, pieces in zip(quantize_rows(weight), quantize_weight(weight), strict=True):
        assert torch.equal(whole, pieces)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(64, 256), (33, 200), (1, 16)], ids=str)
def test_products_equal_those_of_what_was_rounded(
    form: Form, dtype: torch.dtype, shape: tuple[int, int]
) -> None:
    weight, bias = torch.randn(*shape).to(dtype), torch.randn(shape[0]).to(dtype)
    linear = form(weight, bias)
    rounded = product(quantize_weight(weight))
    for count in (1, 5, 32, 150):
        rows = torch.randn(count, shape[1]).to(dtype)
        rows[0] = 0
        used = product(quantize_rows(rows)) if form is Int8Linear else rows.double()
        expected = functional.linear(used, rounded)
        # Float32 sums in any order, and roundings to dtype before the scale, the bias, and after.
        summed = functional.linear(used.abs(), rounded.abs()) * EPS * math.sqrt(shape[1])
        limit = summed + 4 * torch.finfo(dtype).eps * (expected.abs() + bias.double().abs())
        found = linear(rows)
        assert found.dtype is dtype
        assert bool(((found.double() - (expected + bias.double())).abs() <= limit).all())


@pytest.mark.parametrize("form", FORMS)
def test_the_error_is_that_of_uniform_rounding(form: Form) -> None:
    weight, rows = torch.randn(512, 1024), torch.randn(64, 1024)
    error = relative_error(form(weight, None)(rows), functional.linear(rows, weight))
    # A step is the largest of 1024 normal numbers (under 4.2 in the mean) / 127; its uniform error
    # is step / sqrt(12), for the weight and for the row.
    assert 0.005 < error < 1.1 * 4.2 / 127 / math.sqrt(12) * math.sqrt(2)


def test_a_row_that_is_no_number_gives_none() -> None:
    rows = torch.randn(3, 16)
    rows[1, 3] = float("nan")
    for form in FORMS:
        found = form(torch.randn(8, 16), None)(rows).isfinite().all(-1)
        assert found.tolist() == [True, False, True]


@pytest.mark.parametrize("missing", ["operator", "instructions"])
def test_without_the_operator_the_weight_alone_is_in_8_bits(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Int8Linear, rows: Tensor) -> Tensor:
        raise AttributeError

    if missing == "operator":
        monkeypatch.setattr(Int8Linear, "__call__", refuse)
    else:
        monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    assert choose_packing(torch.bfloat16, CPU, "int8") is Int8WeightLinear


@pytest.mark.parametrize("name", ["qwen3_tied", "qwen2_bias"])
def test_a_decoders_logits_stay_near(name: str, tmp_path: Path) -> None:
    folder = make_checkpoint(name, tmp_path)
    config = DecoderConfig.from_folder(folder)
    model = load_decoder(folder, config, ModelOptions(torch.float32, CPU, quantization="int8"))
    plain = load_decoder(folder, config, ModelOptions(torch.float32, CPU))
    hidden = torch.randn(20, config.hidden_size)
    error = relative_error(model.compute_logits(hidden), plain.compute_logits(hidden))
    assert 0 < error < 0.02
    assert all(each.dim() == 1 for name, each in model.named_parameters() if "embed" not in name)


def test_an_engine_says_that_it_is_quantized(tmp_path: Path) -> None:
    folder = make_checkpoint("qwen3_tied", tmp_path)
    model = ModelConfig(str(folder), device="cpu", quantization="int8")
    assert build_engine(EngineConfig(model)).info.dtype == "int8"


def test_the_option_and_its_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_args([]).engine.model.quantization == "none"
    assert parse_args(["--quantization", "int8"]).engine.model.quantization == "int8"
    monkeypatch.setenv("FOLOVLLM_QUANTIZATION", "int8")
    assert parse_args([]).engine.model.quantization == "int8"
    with pytest.raises(ConfigError, match="quantization must be one of none, int8, int4"):
        ModelConfig(quantization="int3")
