"""Logits at every position of a prompt, as our decoders and as transformers compute them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from engine_service.core.outputs import ScheduledSequence
from engine_service.models.causal_model import CausalModel
from engine_service.models.decoder_config import DecoderConfig
from engine_service.models.loader import load_model
from engine_service.models.model_options import ModelOptions
from engine_service.runner.input_batch import build_input_batch
from engine_service.runner.kv_cache import allocate_kv_caches
from folovllm.sampling_params import SamplingParams
from support.builders.tiny_models import VOCAB_SIZE, reference_model

CPU = torch.device("cpu")
BLOCK_SIZE = 16
GREEDY = SamplingParams(temperature=0.0)


def prompt(length: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, VOCAB_SIZE, (length,), generator=generator).tolist()


def load(folder: Path, dtype: torch.dtype, quantization: str = "none") -> CausalModel:
    config = DecoderConfig.from_folder(folder)
    return load_model(folder, config, ModelOptions(dtype, CPU, quantization=quantization))


@torch.inference_mode()
def our_logits(
    model: CausalModel,
    token_ids: Sequence[int],
    chunks: Sequence[int],
    wanted: Callable[[int], list[int]] | None = None,
) -> Tensor:
    """Computed in chunks of the given lengths, with NaN in unused slots of the cache; float32.

    Of each chunk all logits, or those of the rows that `wanted` gives for its length.
    """
    caches = allocate_kv_caches(model, 40, BLOCK_SIZE)
    for cache in caches:
        for tensor in cache[:2]:
            tensor.fill_(float("nan"))
    block_table = range(39, 0, -1)
    logits, done = [], 0
    for length in chunks:
        part = ScheduledSequence(
            0, token_ids[done : done + length], done, block_table, GREEDY, 0, sample_indexes=()
        )
        batch = build_input_batch([part], BLOCK_SIZE, model.device)
        rows = None
        if wanted is not None:
            rows = torch.tensor(wanted(length), dtype=torch.int64, device=model.device)
        hidden = model(batch.input_ids, batch.positions, caches, batch.metadata, rows)
        logits.append(model.compute_logits(hidden, rows).float())
        done += length
    assert done == len(token_ids)
    return torch.cat(logits)


@torch.inference_mode()
def reference_logits(folder: Path, token_ids: Sequence[int], dtype: torch.dtype) -> Tensor:
    logits: Tensor = reference_model(folder, dtype)(torch.tensor([token_ids])).logits[0]
    return logits.float()


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())
