"""A runner on a GPU: its kernels tuned, its cache sized by a step's peak, its graphs captured."""

import torch

from engine_service.config import EngineConfig
from engine_service.device import free_memory
from engine_service.host_memory import FreeMemory
from engine_service.kernels.gpu.compiled_cache import use_trusted_cache
from engine_service.layers.linear.tuner import Tuner
from engine_service.models.causal_model import CausalModel
from engine_service.models.gpu_decoder import GpuDecoder
from engine_service.models.model_options import ModelOptions
from engine_service.runner.gpu.model_runner import GpuModelRunner
from engine_service.runner.gpu.profile import calibrate, measure_peak
from engine_service.runner.kv_cache import bytes_per_block, num_blocks_that_fit
from folovllm.errors import ConfigError
from folovllm.installation.cache_folder import cache_folder

# From this number of weights on, products take longer than their launches.
_WORTH_TUNING = 50_000_000
# Graphs keep what the largest of them needs; a step without a graph takes as much again.
_STEPS_IN_MEMORY = 2
_CACHE_DTYPES = {"fp8": torch.float8_e4m3fn}


def build_gpu_runner(
    config: EngineConfig, model: CausalModel, options: ModelOptions, show_progress: bool
) -> tuple[GpuModelRunner, int]:
    """The runner, and its number of blocks for sequences. Raises ConfigError."""
    assert isinstance(model, GpuDecoder)
    use_trusted_cache()
    if model.config.num_weights >= _WORTH_TUNING:
        model.tune(Tuner(model.device, cache_folder() / "gpu"), show_progress)
    step = config.scheduler.step_size_on("cuda")
    cache_dtype = _CACHE_DTYPES.get(options.cache_dtype, model.dtype)
    block_size = options.block_size
    max_model_len = options.max_model_len or model.config.max_position_embeddings
    try:
        peak = measure_peak(model, step, max_model_len, block_size)
    except torch.cuda.OutOfMemoryError:
        raise ConfigError(
            f"a step of max_num_batched_tokens {step.max_num_batched_tokens} does not fit into the "
            f"memory that is free on {model.device}; lower it"
        ) from None
    fitting = num_blocks_that_fit(
        config,
        options,
        max_model_len=max_model_len,
        block_bytes=bytes_per_block(model.config, block_size, cache_dtype),
        free=FreeMemory(max(0, free_memory(model.device) - _STEPS_IN_MEMORY * peak)),
    )
    num_blocks = options.parallel.all_reduce_min(fitting)
    runner = GpuModelRunner(
        model=model,
        num_blocks=num_blocks,
        block_size=block_size,
        max_num_seqs=step.max_num_seqs,
        max_num_batched_tokens=step.max_num_batched_tokens,
        max_model_len=max_model_len,
        cache_dtype=cache_dtype,
    )
    if cache_dtype.itemsize == 1:
        calibrate(model, runner.kv_caches, max_model_len, block_size)
    runner.graphs.capture(show_progress)
    runner.mixed_graphs.capture(show_progress)
    return runner, num_blocks
