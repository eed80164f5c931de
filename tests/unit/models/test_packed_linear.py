"""Packed projections give the bits of plain ones, and replace them."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from engine_service.core.outputs import ScheduledSequence
from engine_service.layers.linear.linear import Linear
from engine_service.layers.linear.packed_linear import PackedLinear
from engine_service.layers.linear.packing import choose_packing
from engine_service.models import loader
from engine_service.models.decoder_config import DecoderConfig
from engine_service.models.loader import load_decoder
from engine_service.models.model_options import ModelOptions
from engine_service.models.torch_decoder import TorchDecoder
from engine_service.runner.input_batch import build_input_batch
from engine_service.runner.kv_cache import allocate_kv_caches
from folovllm.sampling_params import SamplingParams
from support.builders.tiny_models import TINY_MODELS, make_checkpoint

CPU = torch.device("cpu")
BFLOAT16 = torch.bfloat16

needs_packing = pytest.mark.skipif(
    choose_packing(BFLOAT16, CPU) is None, reason="the processor or torch packs no bfloat16"
)


def linear_of(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
    outputs, inputs = weight.shape
    linear = Linear(inputs, outputs, bias is not None, weight.dtype, functional.linear)
    linear.load_state_dict(
        {"weight": weight} | ({} if bias is None else {"bias": bias}), assign=True
    )
    return linear


@needs_packing
@pytest.mark.parametrize("shape", [(64, 48), (33, 7), (1024, 512), (1, 1)], ids=str)
@pytest.mark.parametrize("biased", [False, True], ids=["no bias", "bias"])
def test_products_have_the_bits_of_plain_ones(shape: tuple[int, int], biased: bool) -> None:
    weight = torch.randn(*shape).to(BFLOAT16)
    bias = torch.randn(shape[0]).to(BFLOAT16) if biased else None
    linear = linear_of(weight, bias)
    linear.pack(PackedLinear)
    assert not list(linear.parameters())
    for count in (1, 3, 32, 33, 300):
        rows = torch.randn(count, shape[1]).to(BFLOAT16)
        assert torch.equal(linear(rows), functional.linear(rows, weight, bias))
        apart = torch.randn(shape[1], count).to(BFLOAT16).T
        assert torch.equal(linear(apart), functional.linear(apart, weight, bias))


@pytest.mark.parametrize(
    ("dtype", "device"), [(torch.float32, CPU), (BFLOAT16, torch.device("cuda"))], ids=str
)
def test_only_bfloat16_on_a_cpu_is_packed(dtype: torch.dtype, device: torch.device) -> None:
    assert choose_packing(dtype, device) is None


@pytest.mark.parametrize("error", [AttributeError, RuntimeError])
def test_weights_stay_plain_where_the_operator_is_missing(
    error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: PackedLinear, rows: torch.Tensor) -> torch.Tensor:
        raise error

    monkeypatch.setattr(PackedLinear, "__call__", refuse)
    assert choose_packing(BFLOAT16, CPU) is None
    folder = make_checkpoint("qwen3_tied", tmp_path, dtype=BFLOAT16)
    model = load_decoder(folder, DecoderConfig.from_folder(folder), ModelOptions(BFLOAT16, CPU))
    assert dict(model.weights())  # which packed ones are not among


def step_logits(model: TorchDecoder) -> torch.Tensor:
    """Logits of a prompt of 21 tokens, then of a decode and another prompt's 5 tokens at once."""
    caches = allocate_kv_caches(model, 4, 16)

    def part(seq_id: int, token_ids: range, computed: int, blocks: list[int]) -> ScheduledSequence:
        params = SamplingParams()
        return ScheduledSequence(seq_id, token_ids, computed, blocks, params, 0, (0,))

    prompt = part(0, range(2, 23), 0, [2, 1])
    decode, other = part(0, range(23, 24), 21, [2, 1]), part(1, range(3, 8), 0, [3])
    logits = []
    for step in ([prompt], [decode, other]):
        batch = build_input_batch(step, 16, CPU)
        hidden = model(batch.input_ids, batch.positions, caches, batch.metadata)
        logits.append(model.compute_logits(hidden))
    return torch.cat(logits)


@needs_packing
@pytest.mark.parametrize("name", TINY_MODELS)
@torch.inference_mode()
def test_a_packed_decoder_gives_the_bits_of_a_plain_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_checkpoint(name, tmp_path, dtype=BFLOAT16)
    config = DecoderConfig.from_folder(folder)
    packed = step_logits(load_decoder(folder, config, ModelOptions(BFLOAT16, CPU)))
    monkeypatch.setattr(loader, "choose_packing", lambda *_: None)
    plain = load_decoder(folder, config, ModelOptions(BFLOAT16, CPU))
    assert dict(plain.weights())
    assert torch.equal(packed, step_logits(plain))


@needs_packing
@pytest.mark.parametrize("stored", [BFLOAT16, torch.float32], ids=str)
@pytest.mark.parametrize("name", ["qwen3_tied", "qwen3_untied", "llama_biases"])
def test_a_loaded_decoder_keeps_only_norms_and_the_rows_of_the_file(
    name: str, stored: torch.dtype, tmp_path: Path
) -> None:
    folder = make_checkpoint(name, tmp_path, dtype=stored)
    config = DecoderConfig.from_folder(folder)
    model = load_decoder(folder, config, ModelOptions(BFLOAT16, CPU))
    kept = dict(model.named_parameters())
    assert kept.pop("embed_tokens").dtype is stored
    assert kept and all(parameter.dim() == 1 for parameter in kept.values())
    plain = load_decoder(folder, config, ModelOptions(BFLOAT16, CPU, deterministic=True))
    hidden = torch.randn(5, config.hidden_size).to(BFLOAT16)
    head = plain.embed_tokens if plain.lm_head is None else plain.lm_head.weight
    assert torch.equal(model.compute_logits(hidden), functional.linear(hidden, head))
    assert torch.equal(model.embed_tokens.to(BFLOAT16), plain.embed_tokens)
