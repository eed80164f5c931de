"""Measurements of a model on a GPU before it serves: a step's memory, the range of its KV."""

from collections.abc import Sequence

import torch

from engine_service.config import StepSize
from engine_service.core.outputs import ScheduledSequence
from engine_service.kernels.gpu.attention.heads import MAX_FP8
from engine_service.layers.attention.backend import KVCache
from engine_service.models.causal_model import CausalModel
from engine_service.runner.input_batch import build_input_batch
from engine_service.runner.kv_cache import allocate_kv_caches
from folovllm.sampling_params import SamplingParams

# Later numbers may be this many times the maximum that was seen.
_HEADROOM = 2.0
_CALIBRATION_TOKENS = 512
# What the sampler and graphs take besides logits, in float32 numbers for each logit.
_COPIES_OF_LOGITS = 2


@torch.inference_mode()
def measure_peak(model: CausalModel, step: StepSize, max_model_len: int, block_size: int) -> int:
    """Bytes on a GPU that the largest step takes besides weights and cache.

    Measured while such a step is computed, on one block that all tokens share.
    """
    caches = allocate_kv_caches(model, 1, block_size)
    whole, rest = divmod(step.max_num_batched_tokens, max_model_len)
    lengths = [max_model_len] * whole + [rest] * (rest > 0)
    torch.cuda.synchronize(model.device)
    torch.cuda.reset_peak_memory_stats(model.device)
    before = torch.cuda.memory_allocated(model.device)
    hidden = _forward(model, caches, lengths, [0] * -(-max(lengths) // block_size), block_size)
    logits = model.compute_logits(hidden[: step.max_num_seqs])
    torch.cuda.synchronize(model.device)
    peak = torch.cuda.max_memory_allocated(model.device) - before
    peak += _COPIES_OF_LOGITS * 4 * step.max_num_seqs * logits.shape[-1]
    del caches, hidden, logits
    torch.cuda.empty_cache()
    return peak


@torch.inference_mode()
def calibrate(
    model: CausalModel, kv_caches: Sequence[KVCache], max_model_len: int, block_size: int
) -> None:
    """Sets the scales of 8-bit caches by the maximum of each head's keys and values.

    They are those of a text of random tokens, computed in the model's own type; numbers more than
    twice as large are clipped.
    """
    num_blocks = -(-_CALIBRATION_TOKENS // block_size)
    num_tokens = min(num_blocks * block_size, max_model_len)
    own = allocate_kv_caches(model, num_blocks, block_size)
    for cache in own:
        for tensor in cache[:2]:
            tensor.zero_()
    _forward(model, own, [num_tokens], range(num_blocks), block_size)
    for cache, exact in zip(kv_caches, own, strict=True):
        assert cache.scales is not None
        for scales, tensor in zip(cache.scales, exact[:2], strict=True):
            maxima = tensor.float().abs().amax(dim=(0, 1, 3))
            scales.copy_((maxima * _HEADROOM / MAX_FP8).clamp_(min=1e-12))


def _forward(
    model: CausalModel,
    caches: Sequence[KVCache],
    lengths: Sequence[int],
    block_table: Sequence[int],
    block_size: int,
) -> torch.Tensor:
    """Hidden states of texts of random tokens, which all share their blocks."""
    generator = torch.Generator().manual_seed(0)
    params = SamplingParams(temperature=0.0)
    sequences = []
    for length in lengths:
        ids = torch.randint(model.config.vocab_size, (length,), generator=generator).tolist()
        sequences.append(ScheduledSequence(0, ids, 0, block_table, params, 0, sample_indexes=()))
    batch = build_input_batch(sequences, block_size, model.device)
    return model(batch.input_ids, batch.positions, caches, batch.metadata)
