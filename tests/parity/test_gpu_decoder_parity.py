"""The GPU kernels' decoder gives transformers' logits, in chunks of every kind."""

from pathlib import Path

import pytest
import torch

from engine_service.models.decoder_config import DecoderConfig
from engine_service.models.gpu_decoder import GpuDecoder, obstacle
from engine_service.models.loader import load_decoder
from engine_service.models.model_options import ModelOptions
from support.builders.tiny_models import WITH_KERNELS, make_checkpoint
from support.twins.decoder_logits import our_logits, prompt, reference_logits, relative_error
from support.twins.gpu_twins import DEVICE

# A prompt, more of it, what a verified draft would be, and one token.
CHUNKS = [9, 12, 4, 1]


def load(folder: Path, dtype: torch.dtype) -> GpuDecoder:
    config = DecoderConfig.from_folder(folder)
    assert obstacle(config, ModelOptions(dtype, DEVICE)) is None
    return GpuDecoder(
        load_decoder(folder, config, ModelOptions(dtype, DEVICE, deterministic=True)), 512
    )


# Under the interpreter each takes seconds.
FEW = ["qwen3_untied", "qwen3_bias_yarn", "qwen2_bias"]


@pytest.mark.parametrize("name", WITH_KERNELS if DEVICE.type == "cuda" else FEW)
def test_float32_logits(name: str, tmp_path: Path) -> None:
    folder = make_checkpoint(name, tmp_path, seed=1)
    model, token_ids = load(folder, torch.float32), prompt(sum(CHUNKS), seed=5)
    expected = reference_logits(folder, token_ids, torch.float32)
    found = our_logits(model, token_ids, CHUNKS).cpu()
    errors = (found - expected).norm(dim=-1) / expected.norm(dim=-1)
    assert float(errors.max()) < 1e-4


def test_bfloat16_logits_are_as_close_as_transformers_own(tmp_path: Path) -> None:
    folder = make_checkpoint("qwen3_one_layer", tmp_path, seed=1)
    model, token_ids = load(folder, torch.bfloat16), prompt(sum(CHUNKS), seed=5)
    exact, theirs = (
        reference_logits(folder, token_ids, dtype) for dtype in (torch.float32, torch.bfloat16)
    )
    found = our_logits(model, token_ids, CHUNKS).cpu()
    assert relative_error(found, exact) <= 1.25 * relative_error(theirs, exact)
