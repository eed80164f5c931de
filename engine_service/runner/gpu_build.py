"""A runner on a GPU: its kernels tuned, its cache sized by a step's peak, its graphs captured."""

import torch

from engine_service.config import EngineConfig
from engine_service.device import free_memory
from engine_service.layers.parallel import TensorParallel
from engine_service.layers.tuner import Tuner
from engine_service.models.causal_model import CausalModel
from engine_service.models.gpu_decoder import GpuDecoder
from engine_service.runner.gpu_profile import calibrate, measure_peak
from engine_service.runner.gpu_runner import GpuModelRunner
from engine_service.runner.kv_cache import bytes_per_block, num_blocks_that_fit
from folovllm.cache_folder import cache_folder

# Weights of a model whose products take longer than to launch them.
_WORTH_TUNING = 50_000_000
# Graphs keep what the largest needs; a step that is none takes as much again.
_STEPS_IN_MEMORY = 2
_CACHE_DTYPES = {"fp8": torch.float8_e4m3fn}


def build_gpu_runner(
    config: EngineConfig,
    model: CausalModel,
    block_size: int,
    max_model_len: int,
    show_progress: bool,
    parallel: TensorParallel,
) -> tuple[GpuModelRunner, int]:
    """The runner, and the number of blocks that it has for sequences. Raises ConfigError."""
    assert isinstance(model, GpuDecoder)
    if model.config.num_weights >= _WORTH_TUNING:
        model.tune(Tuner(model.device, cache_folder() / "gpu"), show_progress)
    scheduler = config.scheduler
    cache_dtype = _CACHE_DTYPES.get(config.cache.dtype, model.dtype)
    peak = measure_peak(model, scheduler.max_num_batched_tokens, scheduler.max_num_seqs, block_size)
    num_blocks = num_blocks_that_fit(
        config.cache,
        block_size=block_size,
        max_num_seqs=scheduler.max_num_seqs,
        max_model_len=max_model_len,
        block_bytes=bytes_per_block(model.config, block_size, cache_dtype),
        free_bytes=max(0, free_memory(model.device) - _STEPS_IN_MEMORY * peak),
        device=model.device,
    )
    num_blocks = parallel.smallest(num_blocks)
    runner = GpuModelRunner(
        model,
        num_blocks,
        block_size,
        scheduler.max_num_seqs,
        scheduler.max_num_batched_tokens,
        max_model_len,
        cache_dtype,
    )
    if cache_dtype.itemsize == 1:
        calibrate(model, runner.kv_caches, block_size)
    runner.graphs.capture(show_progress)
    runner.mixed_graphs.capture(show_progress)
    return runner, num_blocks
